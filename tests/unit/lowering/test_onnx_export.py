"""`--emit onnx`: what onnxruntime computes from the written model equals what the program computes."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from effc.ir import Batch, Edit, Program, Provenance
from effc.lowering.onnx import export_onnx


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.norm(self.conv(x))).mean((2, 3)).reshape(x.shape[0], -1))


def bounded(mode: str) -> Program:
    torch.manual_seed(3)
    exported = torch.export.export(Net().eval(), (torch.randn(2, 3, 6, 6),), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    origin = Provenance("Net", "torch", "0" * 64)
    program = Program.from_exported(exported, origin, batch=Batch(True), input_names=["image:0"], output_names=["x"])
    edit = Edit(program)
    relu = next(node for node in edit.nodes if node.target == torch.ops.aten.relu.default)
    lower, upper = edit.add_tensor("lower", torch.zeros(())), edit.add_tensor("upper", torch.full((8, 1, 1), 0.25))
    bound = edit.call(torch.ops.effc.bound.default, (relu, lower, upper, mode), like=relu)
    edit.replace(relu, bound, but_not={bound})
    return edit.done()


@pytest.mark.parametrize("mode", ["clamp", "zero"])
def test_an_effc_op_is_a_function_that_onnxruntime_runs_at_any_batch(mode: str) -> None:
    program = bounded(mode)
    data = export_onnx(program)
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model)
    assert [(function.domain, function.name) for function in model.functions] == [("effc", f"bound_{mode}")]
    assert sorted(entry.domain for entry in model.opset_import) == ["", "effc"]
    assert [value.name for value in model.graph.input] == ["image:0"]
    assert [value.name for value in model.graph.output] == ["x"]
    session = onnxruntime.InferenceSession(data)
    for batch in (1, 3):
        x = np.random.default_rng(batch).standard_normal((batch, 3, 6, 6), dtype=np.float32)
        x[0, 0, 0, 0] = np.nan
        expected = program.run({"image:0": torch.from_numpy(x)})["x"].numpy()
        actual = session.run(None, {"image:0": x})[0]
        np.testing.assert_allclose(actual, expected, atol=1e-5 * np.abs(expected).max())


def test_same_program_same_bytes_and_no_paths_inside() -> None:
    first, second = export_onnx(bounded("clamp")), export_onnx(bounded("clamp"))
    assert first == second
    assert b".py" not in first


def test_what_the_exporter_says_about_itself_reaches_no_terminal(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec

    def without_torchvision(name: str, package: str | None = None) -> Any:
        return None if name == "torchvision" else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without_torchvision)
    export_onnx(bounded("clamp"))
    captured = capfd.readouterr()
    assert captured.err == captured.out == ""


@pytest.mark.parametrize(
    "call",
    [
        lambda x, t: torch.ops.effc.sparsify(x, t, "magnitude"),
        lambda x, t: torch.ops.effc.sparsify(x, t, "value"),
        lambda x, t: torch.ops.effc.keep_top_k(x, 3),
        lambda x, t: torch.ops.effc.statistical_top_k(x, 0.4, "soft"),
        lambda x, t: torch.ops.effc.statistical_top_k(x, 0.4, "hard"),
        lambda x, t: torch.ops.effc.statistical_top_k(x, 0.4, "mask"),
    ],
    ids=["magnitude", "value", "top-k", "soft", "hard", "mask"],
)
def test_sparse_activations_are_the_same_in_onnxruntime(call: Any) -> None:
    class Sparse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.threshold = nn.Parameter(torch.linspace(0.0, 1.0, 7))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return call(x, self.threshold)

    module = Sparse().eval()
    exported = torch.export.export(module, (torch.zeros(4, 7),))
    program = Program.from_exported(exported, Provenance("Sparse", "torch", "0" * 64), batch=Batch(False), input_names=["x"])
    x = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    x[1, 2], x[2], x[3, :2] = torch.nan, 0.5, torch.inf
    session = onnxruntime.InferenceSession(export_onnx(program))
    torch.testing.assert_close(torch.from_numpy(session.run(None, {"x": x.numpy()})[0]), module(x).detach(), equal_nan=True)
