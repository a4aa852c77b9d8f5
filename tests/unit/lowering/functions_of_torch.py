"""Functions of tensors, compiled together and compared with eager torch: what the kernel tests share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from effc.ir import Batch, Program, Provenance
from effc.lowering import Lowered, lower, run_lowered
from effc.targets import Target, find_target

__all__ = ["TARGETS", "Case", "check", "families", "normal"]

NARROW = find_target("x86-64-v3")
TARGETS = [find_target("cpu"), *([NARROW] if NARROW.runs_here else [])]
Case = tuple[Callable[..., Tensor], Sequence[Tensor]]


class _Several(nn.Module):
    """Functions side by side, each with inputs of its own: one compilation for all."""

    def __init__(self, functions: Sequence[Callable[..., Tensor]], counts: Sequence[int]) -> None:
        super().__init__()
        self.functions, self.counts = list(functions), list(counts)
        self.layers = nn.ModuleList(function for function in functions if isinstance(function, nn.Module))

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        left = list(inputs)
        return [function(*(left.pop(0) for _ in range(count))) for function, count in zip(self.functions, self.counts, strict=True)]


def check(cases: Mapping[str, Case], target: Target, tolerance: float = 1e-5) -> Lowered:
    """Compiled functions give what eager torch gives, to `tolerance` of the largest finite magnitude; returns the code."""
    module = _Several([function for function, _ in cases.values()], [len(inputs) for _, inputs in cases.values()]).eval()
    inputs = [x for _, given in cases.values() for x in given]
    names = [f"x{index}" for index in range(len(inputs))]
    exported = torch.export.export(module, (*inputs,))
    program = Program.from_exported(exported, Provenance("cases", "torch", "0"), batch=Batch(False), input_names=names)
    lowered = lower(program, replace(target, runs_here=True))
    got = run_lowered(lowered, program, {name: x.numpy() for name, x in zip(names, inputs, strict=True)})
    with torch.no_grad():
        wanted = module(*inputs)
    for name, value, expected in zip(cases, got.values(), wanted, strict=True):
        array = expected.numpy()
        assert value.dtype == array.dtype and value.shape == array.shape, name
        largest = float(np.abs(array[np.isfinite(array)]).max(initial=1e-30))
        np.testing.assert_allclose(value, array, rtol=0, atol=tolerance * largest, err_msg=name)
    return lowered


def families(lowered: Lowered) -> list[str]:
    """The families of all kernels, in order."""
    assert lowered.plan is not None
    return [step.family for step in lowered.plan.steps]


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale
