"""The batch of a network with quantisers: a value near a tie is no dependence, a sum over the batch is one, and the reason names it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from effc.frontends import load_program
from effc.frontends.lockstep import Lockstep
from effc.frontends.onnx import batching

DATA = os.environ.get("EFFC_DATA", "")
SCALE = 2.0**-4


def quantised(path: Path, nodes: list[Any], last: str) -> Path:
    """[1, 4] -> nodes -> Q -> DQ -> a float layer, which passes steps on."""
    generator = np.random.default_rng(0)
    stored = {
        "w": generator.standard_normal((4, 4)).astype(np.float32), "s": np.float32(SCALE), "z": np.int8(2), "small": np.float32(1e-2),
        "axes": np.int64([0]),
    }  # fmt: skip
    behind = [
        helper.make_node("QuantizeLinear", [last, "s", "z"], ["q"], name="the_quantiser"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("MatMul", ["d", "w"], ["y"], name="the_layer"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("x", "y")]
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()]
    graph = helper.make_graph([*nodes, *behind], "g", values[:1], values[1:], held)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


class SumsOtherwise(nn.Module):
    """Last bits that depend on the batch, before a rounding; behind it they are whole steps."""

    def forward(self, x: Tensor) -> Tensor:
        share = torch.ones_like(x).sum() / x[0].numel()  # the batch
        return torch.round((x + 0.5) * (1 + 2e-6 - 1e-6 * share)) * 3


class Mixes(nn.Module):
    """A hundredth of the batch's mean, before a rounding."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.round(8 * (x + 0.01 * x.mean(0, keepdim=True))) / 8


def test_last_bits_before_a_rounding_leave_the_batch_symbolic(monkeypatch: pytest.MonkeyPatch) -> None:
    examples = (torch.arange(8.0).reshape(2, 4),)
    whole = lambda given, batched, batch, seed: [torch.arange(4.0 * batch).reshape(batch, 4) + seed]  # noqa: E731
    monkeypatch.setattr("effc.frontends.torch._at_batch", whole)
    assert load_program(SumsOtherwise(), example_inputs=examples).interface.batch.symbolic
    monkeypatch.setattr(Lockstep, "_settled", lambda *arguments: None)
    assert not load_program(SumsOtherwise(), example_inputs=examples).interface.batch.symbolic


def test_a_mean_over_the_batch_is_refused_although_it_moves_no_value_by_a_step() -> None:
    batch = load_program(Mixes(), example_inputs=(torch.randn(2, 64),)).interface.batch
    assert not batch.symbolic
    assert "the first value that does is that of " in batch.reason
    assert "aten.mean" in batch.reason


def test_the_node_that_mixes_samples_is_named_as_in_the_file(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["m"], name="the_mean"),
        helper.make_node("Mul", ["m", "small"], ["part"]),
        helper.make_node("Add", ["x", "part"], ["mixed"]),
    ]
    batch = load_program(quantised(tmp_path / "m.onnx", nodes, "mixed")).interface.batch
    assert not batch.symbolic
    assert "the_mean (aten.mean" in batch.reason


@pytest.mark.parametrize("offset", [0, 100])
def test_vww_has_a_batch_whatever_is_drawn(monkeypatch: pytest.MonkeyPatch, offset: int) -> None:
    """With torch's draws at seed 3 one value behind the fifth convolution falls to another step."""
    path = Path(DATA, "onnx", "mlperf_tiny_vww_int8qdq.onnx")
    if not DATA or not path.exists():
        pytest.skip(f"no {path.name} under $EFFC_DATA")

    def drawn(shapes: Any, dtypes: Any, seed: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(offset + seed)
        return [torch.randn(tuple(shape), generator=generator) for shape in shapes]

    monkeypatch.setattr(batching, "random_inputs", drawn)
    assert load_program(path, check_import=False).interface.batch.symbolic
