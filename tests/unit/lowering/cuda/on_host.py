"""Modules compiled for a GPU and run on this machine's CPU, thread by thread: what the tests of device kernels share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from effc.ir import Batch, Program, Provenance, ValueFacts
from effc.lowering import Lowered, lower
from effc.lowering.cuda.emulation import EmulatedDriver, host_compiler
from effc.runtime.cuda.executor import CudaExecutor
from effc.targets import Target, find_target
from effc.targets.rates import Level, Rates

__all__ = ["ALWAYS", "NEVER", "TARGET", "Computed", "computed", "needs_host", "translated", "with_zeros"]

ALWAYS = Rates(Level(1e-9, 1e9, 0.0), Level(1e-9, 1e9, 0.0), 0.0)
NEVER = Rates(Level(1e9, 1e-9, 0.0), Level(1e9, 1e-9, 0.0), 0.0)
TARGET = find_target("cuda:sm_90")

needs_host = pytest.mark.skipif(host_compiler() is None, reason="no C++ compiler (g++) to run CUDA C on this machine's CPU")


@dataclass(frozen=True)
class Computed:
    """What came out, for each set of inputs, and of which code."""

    outputs: list[list[np.ndarray]]
    lowered: Lowered
    source: str

    @property
    def families(self) -> list[str]:
        assert self.lowered.plan is not None
        return [step.family for step in self.lowered.plan.steps]

    @property
    def notes(self) -> list[str]:
        assert self.lowered.plan is not None
        return [step.note for step in self.lowered.plan.steps]


def translated(
    module: nn.Module, inputs: Sequence[Tensor], *, density: float = 0.5, target: Target = TARGET, rates: Rates = ALWAYS
) -> tuple[Program, Lowered]:
    """A module whose values are all known to be as dense as this, and its code, which is CUDA C: what is tested here needs no nvcc."""
    program = _program(module, inputs, density)
    with mock.patch("effc.lowering.cuda.backend.compile_cubin", lambda source, architecture: source.encode()):
        return program, lower(program, replace(target, rates=rates))


def computed(
    module: nn.Module,
    inputs: Sequence[Tensor],
    *others: Sequence[Tensor],
    density: float = 0.5,
    target: Target = TARGET,
    rates: Rates = ALWAYS,
) -> Computed:
    """Compile a module whose values are all known to be as dense as this, and run it on each set of inputs.

    Every set is run twice, the threads of a block in ascending and in descending order: a right program gives the same bits.
    """
    program, lowered = translated(module, inputs, density=density, target=target, rates=rates)
    source = lowered.code.decode()
    assert lowered.plan is not None
    executors = []
    for descending in (False, True):
        names = [value.name for value in program.interface.inputs], [value.name for value in program.interface.outputs]
        executors.append(CudaExecutor(lowered.plan, *names, lowered.parameters, b"", EmulatedDriver(source, descending)))
    results = []
    for given in (inputs, *others):
        arrays = [np.ascontiguousarray(x.numpy()) for x in given]
        both = []
        for executor in executors:
            outputs = [np.empty(value.at_batch(1), value.dtype) for value in program.interface.outputs]
            executor.call(arrays, outputs)
            both.append(outputs)
        for one, other in zip(*both, strict=True):
            assert one.tobytes() == other.tobytes(), "the order of threads changes the result"
        results.append(both[0])
    return Computed(results, lowered, source)


def _program(module: nn.Module, inputs: Iterable[Tensor], density: float) -> Program:
    given = tuple(inputs)
    exported = torch.export.export(module.eval(), given)
    names = [f"x{index}" for index in range(len(given))]
    program = Program.from_exported(exported, Provenance("case", "torch", "0"), batch=Batch(False), input_names=names)
    facts = {node.name: ValueFacts(-1.0, 1.0, density, 1) for node in program.nodes}
    facts |= {node.name: ValueFacts(-1.0, 1.0, density, 1) for node in program.input_nodes.values()}
    return program.with_facts(program.facts.with_values(facts))


def with_zeros(x: Tensor, density: float, seed: int = 7) -> Tensor:
    keep = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < density
    return torch.where(keep, x, torch.zeros(()))
