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

from effc.ir import Batch, Edit, Program, Provenance, run_clip
from effc.lowering.onnx import export_onnx
from tests.unit.ir.streaming_net import SIZE, clip, per_frame, streaming


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


@pytest.mark.parametrize(("threshold", "scene_cut", "refresh"), [pytest.param(0.0, 0.25, 4, marks=pytest.mark.slow), (0.3, 0.2, 0)])
def test_a_streaming_program_is_run_by_onnxruntime_frame_by_frame(threshold: float, scene_cut: float, refresh: int) -> None:
    program = streaming(per_frame(), threshold, scene_cut, refresh)
    data = export_onnx(program)
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(data)
    assert [one.name for one in session.get_inputs()] == [value.name for value in program.interface.inputs]
    x = clip(10)
    x[6] = x[5]
    x[6:] *= -1  # a cut
    expected = run_clip(program, {"x": x})["scores"].numpy()
    states = {value.name: np.zeros(value.at_batch(1), value.dtype) for value in program.interface.inputs[1:]}
    clocks, scores = [], []
    for frame in x.numpy():
        results = dict(zip([one.name for one in session.get_outputs()], session.run(None, {"x": frame[None], **states}), strict=True))
        states = {name: results[f"{name}_next"] for name in states}
        clocks += results["stream.clock_next"].tolist()
        scores.append(results["scores"])
    assert clocks == ([1, 2, 3, 4, 1, 2, 1, 2, 3, 4] if refresh else [1, 2, 3, 4, 5, 6, 1, 2, 3, 4])
    np.testing.assert_allclose(np.concatenate(scores), expected, atol=1e-5 * np.abs(expected).max())


def test_an_output_that_is_a_kept_tensor_has_a_name_beside_its_state() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.second(torch.relu(self.first(x))))

    torch.manual_seed(4)
    exported = torch.export.export(Last().eval(), (torch.zeros(1, 3, SIZE, SIZE),))
    origin = Provenance("Last", "torch", "0" * 64)
    program = Program.from_exported(exported, origin, batch=Batch(False, "test"), input_names=["x"], output_names=["scores"])
    program = streaming(program, 0.3)
    data = export_onnx(program)
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    session = onnxruntime.InferenceSession(data)
    names = [one.name for one in session.get_outputs()]
    assert names == [value.name for value in program.interface.outputs] and len(set(names)) == len(names)
    x = clip(6)
    expected = run_clip(program, {"x": x})["scores"].numpy()
    states = {value.name: np.zeros(value.at_batch(1), value.dtype) for value in program.interface.inputs[1:]}
    for frame, wanted in zip(x.numpy(), expected, strict=True):
        results = dict(zip(names, session.run(None, {"x": frame[None], **states}), strict=True))
        states = {name: results[f"{name}_next"] for name in states}
        np.testing.assert_array_equal(results["scores"], states["relu.1"])
        np.testing.assert_allclose(results["scores"][0], wanted, atol=1e-5 * np.abs(expected).max())


def test_one_function_serves_tensors_of_every_rank_and_streams_have_clocks_of_their_own() -> None:
    class Ranks(nn.Module):
        def forward(self, x: torch.Tensor, old: torch.Tensor, clock: torch.Tensor) -> tuple[torch.Tensor, ...]:
            ops = torch.ops.effc
            flat = ops.truncate(x.flatten(1), old.flatten(1), clock, 0.5)
            ticked = [ops.stream_clock(one, before, clock, 0.5, 0.25, 3) for one, before in ((x, old), (x[:, :, :1], old[:, :, :1]))]
            bits = ops.stream_clock(x, old, clock, 0.0, 0.0, 0)
            return (ops.truncate(x, old, clock, 0.5), flat, *ticked, bits)

    generator = torch.Generator().manual_seed(1)
    x, old = torch.randn((4, 2, 4, 5), generator=generator), torch.randn((4, 2, 4, 5), generator=generator)
    old[:2] = x[:2]
    old[0, 0, 0] += 0.5000001
    x[1, 0, 0, 0] = float("nan")
    x[3] = old[3] = 0.0
    x[3, 0, 0, 0] = -0.0  # which only its sign tells from 0
    clock = torch.tensor([2, 1, 0, 3], dtype=torch.int32)
    dim = torch.export.Dim("batch", min=1)
    exported = torch.export.export(Ranks(), (x, old, clock), dynamic_shapes=({0: dim}, {0: dim}, {0: dim}))
    program = Program.from_exported(exported, Provenance("Ranks", "torch", "0" * 64), batch=Batch(True))
    data = export_onnx(program)
    assert len(onnx.load_from_string(data).functions) == 3
    results = onnxruntime.InferenceSession(data).run(None, {"x": x.numpy(), "old": old.numpy(), "clock": clock.numpy()})
    for result, expected in zip(results, program.run({"x": x, "old": old, "clock": clock}).values(), strict=True):
        np.testing.assert_array_equal(result, expected.numpy())
