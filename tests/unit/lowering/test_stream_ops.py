"""The dense TVM meaning of the streaming ops equals torch's where comparisons go wrong: at thresholds, NaN, infinities, signed zeros."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from effc.frontends import load_program
from effc.ir.arrays import to_torch
from effc.lowering import lower, run_lowered
from effc.targets import find_target
from tests.unit.ir.streaming_net import clip, per_frame, streaming


class Ops(nn.Module):
    def forward(self, x: Tensor, old: Tensor, clock: Tensor) -> tuple[Tensor, ...]:
        ops = torch.ops.effc
        return (
            ops.truncate(x, old, clock, 0.5),
            ops.truncate(x.flatten(1), old.flatten(1), clock, 0.5),
            ops.truncate(x, old, clock, 0.0),
            ops.stream_clock(x, old, clock, 0.5, 0.25, 3),
            ops.stream_clock(x, old, clock, 0.0, 0.0, 0),
        )


def test_values_at_the_edges() -> None:
    old = torch.zeros(6, 2, 2, 4)
    x = old.clone()
    x[0, 0, 0] = torch.tensor([0.5, -0.5, 0.5000001, -0.5000001])
    x[1, 1, 1, :3] = torch.tensor([float("nan"), float("inf"), -0.0])
    x[2, 0, 0, 0] = old[2, 0, 0, 0] = float("inf")
    x[3, 0, 0, 0] = -0.0
    x[4] = old[4] = 0.25
    clock = torch.tensor([2, 2, 1, 2**31 - 1, 3, 0], dtype=torch.int32)
    program = load_program(Ops(), example_inputs=(x, old, clock))
    given = {name: value.numpy() for name, value in zip(("x", "old", "clock"), (x, old, clock), strict=True)}
    results = run_lowered(lower(program, find_target("cpu"), batch=6), program, given)
    expected = program.run({name: to_torch(array) for name, array in given.items()})
    for name, result in results.items():
        assert result.tobytes() == expected[name].numpy().tobytes(), name
    assert results["output_3"].tolist() == [3, 3, 2, 1, 1, 1]
    assert results["output_4"].tolist() == [1, 1, 2, 1, 4, 1]


def test_a_dense_stream_follows_the_program() -> None:
    program, x = streaming(per_frame(), threshold=0.3, scene_cut=0.2, refresh=4, resident=False), clip(7)
    x[5:] *= -1
    lowered = lower(program, find_target("cpu"), batch=1)
    states = {value.name: np.zeros(value.at_batch(1), value.dtype) for value in program.interface.inputs[1:]}
    clocks = []
    for frame in x.numpy():
        given = {"x": frame[None], **states}
        results = run_lowered(lowered, program, given)
        expected = program.run({name: to_torch(array) for name, array in given.items()})
        for name, result in results.items():
            np.testing.assert_allclose(result, expected[name].numpy(), rtol=1e-5, atol=1e-6, err_msg=name)
        states = {name: results[f"{name}_next"] for name in states}
        clocks += results["stream.clock_next"].tolist()
    assert clocks == [1, 2, 3, 4, 1, 1, 2]
