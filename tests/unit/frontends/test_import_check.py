"""Every ONNX import is compared with onnxruntime: a wrong operator is refused, what cannot be compared says so."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from effc.compiler import compile_model
from effc.compiler.verification import verify_artifact
from effc.errors import VerificationError
from effc.frontends import load_program
from effc.frontends.onnx import operators
from effc.frontends.onnx.agreement import agreement
from effc.frontends.onnx.steps import Step, in_steps, output_steps

DATA = os.environ.get("EFFC_DATA", "")
DIGITS = Path(__file__).parents[3] / "examples" / "digits.onnx"


def save(path: Path, nodes: list[Any], dtype: int = TensorProto.FLOAT, tensors: dict[str, Any] | None = None, opset: int = 17) -> Path:
    values = [helper.make_tensor_value_info(name, dtype, [1, 8]) for name in ("x", "y")]
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in (tensors or {}).items()]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], held)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), path)
    return path


def wrong(monkeypatch: pytest.MonkeyPatch, op_type: str, meaning: Any) -> None:
    """Give an operator another meaning than onnx's."""
    row = operators.OPERATORS["", op_type]
    monkeypatch.setitem(operators.OPERATORS, ("", op_type), replace(row, function=meaning))


def test_onnxruntime_keeps_nothing_and_tells_nobody(tmp_path: Path) -> None:
    """It reports its use from 1.32 on, by way of a store in the user's cache."""
    script = f"from effc.frontends import load_program; print(load_program({str(DIGITS)!r}).provenance.checked)"
    settings = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=settings, capture_output=True, text=True, check=True)
    assert "computes the same" in done.stdout
    assert not list(tmp_path.rglob("*onnxruntime*"))


def test_the_bundled_model_is_compared() -> None:
    assert load_program(DIGITS).provenance.checked.endswith("computes the same on random inputs")


def test_a_wrong_operator_is_refused_and_nothing_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wrong(monkeypatch, "Relu", lambda context, x: torch.clamp(x, min=-0.02))
    with pytest.raises(VerificationError) as caught:
        compile_model(DIGITS, tmp_path / "out")
    assert [problem.where for problem in caught.value.problems] == ["logits"]
    assert not (tmp_path / "out").exists()
    program = load_program(DIGITS, check_import=False)
    assert program.provenance.checked == ""


def test_infinities_at_other_places_are_a_difference(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = save(tmp_path / "log.onnx", [helper.make_node("Log", ["x"], ["y"])])
    assert "the same" in load_program(path).provenance.checked  # NaN for negative inputs, in both
    wrong(monkeypatch, "Log", lambda context, x: x.abs().log())
    with pytest.raises(VerificationError):
        load_program(path)


def test_verify_asks_onnxruntime_about_the_artifact(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A misread operator is in the artifact, in its program and in the import of its source."""
    wrong(monkeypatch, "Relu", lambda context, x: torch.clamp(x, min=-0.02))
    compile_model(DIGITS, tmp_path / "out", check_import=False)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((70, 1, 8, 8), np.float32))
    verdict = verify_artifact(tmp_path / "out", source=DIGITS, data=tmp_path / "x.npy", check_import=False)
    assert not verdict.passed
    failed = {finding.what: finding.samples for finding in verdict.findings if not finding.passed}
    name = f"artifact against onnxruntime {onnxruntime.__version__}"
    assert failed == {f"{name}, golden inputs": 8, f"{name}, data": 70}


def test_verify_counts_quantised_outputs_in_steps(tmp_path: Path) -> None:
    path = quantised(tmp_path / "q.onnx", "Softmax")
    compile_model(path, tmp_path / "out")
    verdict = verify_artifact(tmp_path / "out", source=path)
    assert verdict.passed
    (finding,) = (one for one in verdict.findings if "onnxruntime" in one.what)
    assert finding.what.endswith("golden inputs, quantisation steps")
    assert finding.must_hold
    assert finding.verification.tolerance == 2


def test_verify_says_what_onnxruntime_cannot_run(tmp_path: Path) -> None:
    path = save(tmp_path / "bf16.onnx", [helper.make_node("Relu", ["x"], ["y"])], TensorProto.BFLOAT16, opset=22)
    compile_model(path, tmp_path / "out")
    verdict = verify_artifact(tmp_path / "out", source=path)
    assert verdict.passed
    assert [note.startswith("not compared with onnxruntime") for note in verdict.notes] == [True]


QUANTISED = {"s": np.float32(0.05), "z": np.int8(3), "w": np.eye(8, dtype=np.float32)[::-1].copy()}


def quantised(path: Path, behind: str) -> Path:
    """Q -> DQ, and a layer behind that hides the quantiser more or less."""
    last = "d" if behind else "y"
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]), helper.make_node("DequantizeLinear", ["q", "s", "z"], [last])]
    if behind:
        nodes.append(helper.make_node(behind, ["d", "w"] if behind == "MatMul" else ["d"], ["y"]))
    return save(path, nodes, tensors=QUANTISED if behind == "MatMul" else {name: QUANTISED[name] for name in "sz"})


def zero_point(q: Any, dq: Any) -> dict[str, Any]:
    return {"QuantizeLinear": lambda context, x, s, z: q(context, x, s, z - 3)}


def constant(q: Any, dq: Any) -> dict[str, Any]:
    return {"DequantizeLinear": lambda context, x, s, z: dq(context, x, s, z) * 0.0}


def scale(q: Any, dq: Any) -> dict[str, Any]:
    return {"DequantizeLinear": lambda context, x, s, z: dq(context, x, s * 1.25, z)}


def coarse(q: Any, dq: Any) -> dict[str, Any]:
    """Both ends with a scale so large that all is zero: no error in steps of that scale."""
    return {
        "QuantizeLinear": lambda context, x, s, z: q(context, x, s * 1000, z),
        "DequantizeLinear": lambda context, x, s, z: dq(context, x, s * 1000, z),
    }


@pytest.mark.parametrize("behind", ["", "Softmax", "Sigmoid", "MatMul"])
@pytest.mark.parametrize("fault", [zero_point, constant, scale, coarse])
def test_a_fault_is_seen_behind_quantisers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: Any, behind: str) -> None:
    path = quantised(tmp_path / "q.onnx", behind)
    assert "the same" in load_program(path).provenance.checked
    if behind == "Softmax" and fault is zero_point:
        return  # the same shift of every logit changes no probability
    meanings = fault(*(operators.OPERATORS["", name].function for name in ("QuantizeLinear", "DequantizeLinear")))
    for op_type, meaning in meanings.items():
        wrong(monkeypatch, op_type, meaning)
    with pytest.raises(VerificationError, match="does not mean the same"):
        load_program(path)


def test_one_step_of_everything_is_no_tie(tmp_path: Path) -> None:
    want = {"y": np.linspace(-1, 1, 64, dtype=np.float32)}
    steps = {"y": Step(0.01)}
    (shifted,) = agreement({"y": want["y"] + np.float32(0.01)}, want, True, steps)
    assert not shifted.holds
    assert "on average" in str(shifted)
    one = want["y"].copy()
    one[3] += 0.0199
    assert agreement({"y": one}, want, True, steps)[0].holds
    one[3] += 0.02
    assert not agreement({"y": one}, want, True, steps)[0].holds
    assert not agreement({"y": np.full_like(one, np.nan)}, want, True, steps)[0].holds


def test_a_confident_softmax_is_not_matched_by_a_guess() -> None:
    """The logarithm of zero would say nothing; a uniform answer is many steps away all the same."""
    want = np.zeros((1, 10), np.float32)
    want[0, 4] = 1.0
    assert np.abs(in_steps(np.full_like(want, 0.1), want, Step(0.17, squashed=True))).max() > 50


@pytest.mark.parametrize(
    ("name", "size", "squashed"),
    [("ad_autoencoder", 0.3084, False), ("kws", 0.1714, True), ("resnet8", 0.1686, True), ("vww", 0.03187, True)],
)
def test_trained_int8_files_are_the_same_to_both(name: str, size: float, squashed: bool) -> None:
    path = Path(DATA, "onnx", f"mlperf_tiny_{name}_int8qdq.onnx")
    if not DATA or not path.exists():
        pytest.skip(f"no {path.name} under $EFFC_DATA")
    (step,) = output_steps(onnx.load(path).graph).values()
    assert step.squashed is squashed
    assert step.size == pytest.approx(size, rel=1e-3)
    assert load_program(path).provenance.checked.endswith("computes the same on random inputs")


def test_what_onnxruntime_cannot_run_is_imported_and_says_so(tmp_path: Path) -> None:
    path = save(tmp_path / "bf16.onnx", [helper.make_node("Softplus", ["x"], ["y"])], TensorProto.BFLOAT16, opset=22)
    assert load_program(path).provenance.checked.startswith("not compared with onnxruntime")
