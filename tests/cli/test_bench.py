"""`effc bench --against`: a model that is not the artifact's is the user's mistake, and is said before anything is timed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from effc.compiler.peers import PEERS
from tests.cli.conftest import DIGITS, Effc

QUICK = ("--blocks", "2", "--seconds", "0.02", "--warm-up", "0.05", "--threads", "1")
Compiled = tuple[Path, dict[str, Any]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models that are not the digits network."""
    folder = tmp_path_factory.mktemp("models")
    weight = helper.make_tensor("w", TensorProto.FLOAT, [16, 4], [0.5] * 64)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in (("x", 16), ("y", 4)))
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "mlp", [x], [y], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "mlp.onnx")
    digits = onnx.load(DIGITS)
    digits.producer_name = "someone else"
    onnx.save(digits, folder / "again.onnx")
    digits.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    onnx.save(digits, folder / "three.onnx")
    digits.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    digits.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 9
    onnx.save(digits, folder / "larger.onnx")
    (folder / "junk.onnx").write_bytes(b"junk junk junk")
    torch.export.save(torch.export.export(torch.nn.Linear(16, 4).eval(), (torch.zeros(2, 16),)), folder / "m.pt2")
    return folder


@pytest.mark.parametrize(
    ("engine", "model", "code", "words"),
    [
        ("onnxruntime", "mlp.onnx", 2, ["float32[1, 1, 8, 8]: the model has no such input; it has: x", "'x': float32[?, 16]"]),
        ("onnxruntime", "larger.onnx", 2, ["the model takes float32[?, 1, 9, 8]"]),
        ("onnxruntime", "three.onnx", 2, ["its batch is fixed: compile with --batch 3, or compile with --emit onnx"]),
        ("onnxruntime", "m.pt2", 2, ["onnxruntime needs a model in .onnx", "torch and torch_compile run m.pt2"]),
        ("onnxruntime", "junk.onnx", 4, ["junk.onnx is not a sound ONNX file"]),
        ("onnxruntime", ".", 2, ["is a folder"]),
        ("onnxruntime", "missing.onnx", 2, ["missing.onnx: no such file"]),
        ("torch", "mlp.onnx", 2, ["is it the model that the artifact was compiled from?", "it has: x"]),
    ],
)
def test_a_model_that_is_not_the_artifacts(
    effc: Effc, compiled: Compiled, models: Path, engine: str, model: str, code: int, words: list[str]
) -> None:
    result = effc("bench", compiled[0], "--against", engine, "--model", models / model, *QUICK)
    assert result.exit_code == code, result.output
    assert all(word in result.stderr for word in words), result.stderr
    assert "bug of effc" not in result.stderr
    assert "Traceback" not in result.stderr


def test_another_file_with_the_same_inputs_is_timed_with_a_warning(effc: Effc, compiled: Compiled, models: Path) -> None:
    again = effc("bench", compiled[0], "--against", "onnxruntime", "--model", models / "again.onnx", *QUICK)
    assert again.exit_code == 0, again.output
    assert "again.onnx is not the file that the artifact was compiled from (digits.onnx, " in again.stderr
    same = effc("bench", compiled[0], "--against", "onnxruntime", "--model", DIGITS, *QUICK)
    assert "warning" not in same.stderr
    found = re.search(r"effc is ([\d.]+) x (faster|slower) than onnxruntime, whose time is ([\d.]+) times effc's", same.stdout)
    assert found is not None, same.stdout
    assert (float(found[3]) >= 1) == (found[2] == "faster")


@pytest.mark.parametrize(("option", "value"), [("--seconds", "nan"), ("--seconds", "inf"), ("--warm-up", "nan"), ("--warm-up", "-1")])
def test_no_length_of_time(effc: Effc, compiled: Compiled, option: str, value: str) -> None:
    result = effc("bench", compiled[0], option, value, "--blocks", "1")
    assert result.exit_code == 2
    assert f"Invalid value for '{option}': {value}" in result.stderr


def test_a_model_that_nobody_runs_is_refused(effc: Effc, compiled: Compiled) -> None:
    result = effc("bench", compiled[0], "--model", DIGITS)
    assert result.exit_code == 2
    assert "--against" in result.stderr


def test_help_and_error_list_the_same_engines(effc: Effc, compiled: Compiled) -> None:
    text = effc("bench", "--help").stdout
    result = effc("bench", compiled[0], "--against", "nonsense", "--model", DIGITS)
    assert result.exit_code == 2
    assert all(name in text and f"'{name}'" in result.stderr for name in PEERS)
