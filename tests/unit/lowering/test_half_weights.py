"""Matrices stored in 16 bits: the kernels that read them, what is stored, and sums in float32."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from effc.ir import Batch, Program, Provenance, ValueFacts
from effc.lowering import lower, run_lowered
from effc.targets import Target, find_target
from tests.unit.lowering.functions_of_torch import TARGETS, families, normal
from tests.unit.lowering.test_skipping import ALWAYS, NEVER, with_zeros


class Half(nn.Module):
    def __init__(self, depth: int, columns: int, dtype: torch.dtype) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter((torch.randn(columns, depth, generator=generator) / depth**0.5).to(dtype))
        self.bias = nn.Parameter(torch.randn(columns, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight.to(torch.float32), self.bias)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
@pytest.mark.parametrize("dtype", [pytest.param(torch.float16, marks=pytest.mark.slow), torch.bfloat16], ids=str)
def test_half_weights_are_read_as_they_are_and_summed_in_float32(target: Target, dtype: torch.dtype) -> None:
    for depth, columns, rows in ((1024, 600, 1), (300, 700, 1), (129, 65, 3), (64, 64, 40), (1, 1, 1)):
        module, x = Half(depth, columns, dtype).eval(), with_zeros(normal(rows, depth), 0.4)
        exported = torch.export.export(module, (x,))
        program = Program.from_exported(exported, Provenance("case", "torch", "0"), batch=Batch(False), input_names=["x"])
        program = program.with_facts(program.facts.with_values({"x": ValueFacts(-1.0, 1.0, 0.4, 1)}))
        for rates in (ALWAYS, NEVER) if target.name == "cpu" else (ALWAYS,):
            lowered = lower(program, replace(target, runs_here=True, rates=rates))
            if rates is ALWAYS and rows <= 8:
                assert families(lowered) == ["skipping"]
            (got,) = run_lowered(lowered, program, {"x": x.numpy()}).values()
            wanted = module(x).detach().numpy()
            np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-6 * float(np.abs(wanted).max()))
            (stored,) = [array for array in lowered.parameters.values() if array.ndim > 1]
            assert stored.dtype.name == str(dtype).removeprefix("torch.")


def test_half_weights_that_are_used_otherwise_become_float32() -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(normal(8, 8).half())

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight.float() + self.weight.float().sum()

    module, x = Other().eval(), normal(2, 8)
    program = Program.from_exported(
        torch.export.export(module, (x,)), Provenance("case", "torch", "0"), batch=Batch(False), input_names=["x"]
    )
    (got,) = run_lowered(lower(program, find_target("cpu")), program, {"x": x.numpy()}).values()
    np.testing.assert_allclose(got, module(x).detach().numpy(), rtol=1e-6, atol=1e-5)
