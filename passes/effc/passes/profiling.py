"""What values of a program look like on data: extremes and density of chosen nodes, over every element of every sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from effc.data import Dataset
from effc.errors import DataError, Problem
from effc.ir import Program, ValueFacts, source_of
from effc.ir.arrays import to_torch
from effc.passes.base import Progress

__all__ = ["profile"]


def profile(program: Program, nodes: Sequence[fx.Node], data: Dataset, progress: Progress, label: str) -> dict[str, ValueFacts]:
    """Observe nodes while the program runs on data.

    Args:
        program: what to run.
        nodes: whose values to observe; tensors with at least one element.
        data: every sample is used once.
        progress: shows the samples that are done, under `label`.

    Returns:
        Observations by node name.

    Raises:
        DataError: a value is NaN or infinite; names all nodes where that happened first.
    """
    watch = _Watch(program, {node.name for node in nodes})
    with progress(label, len(data)) as advance:
        for batch in data.batches():
            watch.run_batch(batch)
            advance(len(batch))
    by_name = {node.name: node for node in nodes}
    bad = [Problem(source_of(by_name[name]), "activation", "is NaN or infinite on this data") for name in watch.broken]
    if bad:
        raise DataError("the program cannot be profiled on this data", bad)
    return {
        name: ValueFacts(seen.minimum, seen.maximum, seen.nonzero / max(1, seen.elements), len(data)) for name, seen in watch.seen.items()
    }


class _Seen:
    minimum = math.inf
    maximum = -math.inf
    nonzero = 0
    elements = 0


class _Watch(fx.Interpreter):
    def __init__(self, program: Program, names: set[str]) -> None:
        super().__init__(program.exported.graph_module)
        self._program = program
        self.seen = {name: _Seen() for name in names}
        self.broken: dict[str, None] = {}

    def run_batch(self, batch: Dataset) -> None:
        program = self._program
        stored = [program.tensors[name] for name in program.tensor_names]
        inputs = [to_torch(batch.inputs[value.name]) for value in program.interface.inputs]
        with torch.no_grad():
            self.run(*stored, *inputs)

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        seen = self.seen.get(n.name)
        if seen is not None and isinstance(value, Tensor) and value.numel():
            low, high = (float(one) for one in torch.aminmax(value))
            if not (math.isfinite(low) and math.isfinite(high)):
                self.broken[n.name] = None
            seen.minimum, seen.maximum = min(seen.minimum, low), max(seen.maximum, high)
            seen.nonzero += int(torch.count_nonzero(value))
            seen.elements += value.numel()
        return value
