"""Every ONNX import is compared with onnxruntime: a wrong operator is refused, what cannot be compared says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from effc.compiler import compile_model
from effc.errors import VerificationError
from effc.frontends import load_program
from effc.frontends.onnx import operators

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


def test_a_wrong_zero_point_is_seen_behind_quantisers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]), helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"])]
    path = save(tmp_path / "q.onnx", nodes, tensors={"s": np.float32(0.05), "z": np.int8(3)})
    assert "the same" in load_program(path).provenance.checked
    row = operators.OPERATORS["", "QuantizeLinear"].function
    wrong(monkeypatch, "QuantizeLinear", lambda context, x, s, z: row(context, x, s, z - 3))
    with pytest.raises(VerificationError, match="does not mean the same"):
        load_program(path)


def test_what_onnxruntime_cannot_run_is_imported_and_says_so(tmp_path: Path) -> None:
    path = save(tmp_path / "bf16.onnx", [helper.make_node("Softplus", ["x"], ["y"])], TensorProto.BFLOAT16, opset=22)
    assert load_program(path).provenance.checked.startswith("not compared with onnxruntime")
