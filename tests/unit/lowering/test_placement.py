"""Compiled code reads its inputs at any multiple of an element's size, and gives the same bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from effc.ir import Batch, Program, Provenance
from effc.lowering import lower
from effc.runtime.executor import CODE, PlanExecutor, aligned_empty
from effc.targets import find_target

NETS = {
    "conv": (nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU()), (1, 3, 16, 16)),
    "winograd": (nn.Conv2d(16, 32, 3, padding=1), (1, 16, 32, 32)),
    "depthwise": (nn.Conv2d(32, 32, 3, padding=1, groups=32), (1, 32, 12, 12)),
    "pool": (nn.MaxPool2d(2), (1, 16, 16, 16)),
    "one row": (nn.Linear(256, 96), (1, 256)),
    "rows": (nn.Sequential(nn.Linear(64, 48), nn.Softmax(-1)), (20, 64)),
    "elementwise": (nn.GELU(), (1, 1000)),
    "norm": (nn.LayerNorm(100), (8, 100)),
}


@pytest.mark.parametrize("name", NETS)
def test_inputs_may_lie_at_any_element(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, shape = NETS[name]
    exported = torch.export.export(net.eval(), (torch.randn(shape),))
    program = Program.from_exported(exported, Provenance("net", "torch", "0"), batch=Batch(False))
    lowered = lower(program, find_target("cpu"))
    assert lowered.plan is not None
    (tmp_path / CODE).write_bytes(lowered.code)
    (given,), (made,) = program.interface.inputs, program.interface.outputs
    executor = PlanExecutor(lowered.plan, [given.name], [made.name], lowered.parameters, tmp_path / CODE)
    assert executor.alignment == 1
    room, results = aligned_empty((16 + int(np.prod(shape)),), "float32"), set()
    values = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    for start in range(16):  # every place of an element in a line of a cache
        x, y = room[start : start + values.size].reshape(shape), aligned_empty(made.at_batch(1), "float32")
        x[...] = values
        executor.call([x], [y])
        results.add(y.tobytes())
    assert len(results) == 1
