"""What values of a program look like on data: extremes, density and magnitudes of chosen nodes, over every element of every sample."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, fx

from effc.data import Dataset
from effc.errors import DataError, Problem
from effc.ir import Clip, Histogram, Program, ValueFacts, source_of
from effc.ir.arrays import to_torch
from effc.passes.base import Progress
from effc.passes.quantiles import Quantiles

__all__ = ["Observer", "Seen", "Watch", "observe", "profile", "remeasured"]

_BINS = 64
_SHOWN = 0.999  # share of the magnitudes that a histogram's bins cover


class Observer(Protocol):
    """Something that looks at a node's value, one batch after the other."""

    def see(self, value: Tensor) -> None:
        """Look at the value of one batch; it must be neither kept nor changed."""


class Seen:
    """Extremes and density of a value, and its magnitudes where a histogram is wanted."""

    def __init__(self, *, histogram: bool = False) -> None:
        self.minimum, self.maximum, self.nonzero, self.elements, self.finite = math.inf, -math.inf, 0, 0, True
        self.magnitudes = Quantiles() if histogram else None

    def see(self, value: Tensor) -> None:
        if not value.numel():
            return
        low, high = (float(one) for one in torch.aminmax(value))
        self.finite = self.finite and math.isfinite(low) and math.isfinite(high)
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
        self.nonzero += int(torch.count_nonzero(value))
        self.elements += value.numel()
        if self.magnitudes is not None and self.finite:
            self.magnitudes.add(value)

    @property
    def density(self) -> float:
        return self.nonzero / max(1, self.elements)

    def facts(self, samples: int) -> ValueFacts:
        histogram = None
        if self.magnitudes is not None:
            upper = float(self.magnitudes.quantile(_SHOWN)) or max(abs(self.minimum), abs(self.maximum))
            histogram = Histogram(upper, tuple(self.magnitudes.histogram(_BINS, upper)))
        return ValueFacts(self.minimum, self.maximum, self.density, samples, histogram=histogram)


class Watch(fx.Interpreter):
    """Runs a program and shows the values of nodes, by name, to observers.

    Samples of a program with resident states are frames of one clip: they are shown one by one, and the next batch goes on with them.
    """

    def __init__(self, program: Program, observers: Mapping[str, Iterable[Observer]]) -> None:
        super().__init__(program.exported.graph_module)
        self._observers = observers
        self._stored = [program.tensors[name] for name in program.tensor_names]
        self._clip = Clip(program, lambda *inputs: self.run(*self._stored, *inputs))

    def run_batch(self, batch: Dataset) -> dict[str, Tensor]:
        """The outputs for some samples, by the user's names."""
        names = [value.name for value in self._clip.program.interface.frame_inputs]
        return self._clip.run({name: to_torch(batch.inputs[name]) for name in names})

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            for observer in self._observers.get(n.name, ()):
                observer.see(value)
        return value


def observe(program: Program, observers: Mapping[str, Iterable[Observer]], data: Dataset, progress: Progress, label: str) -> None:
    """Show nodes' values to observers while the program runs on data: every sample once.

    Args:
        program: what to run.
        observers: who looks at what, by node name (inputs of the program, too).
        data: the samples.
        progress: shows the samples that are done, under `label`.
    """
    watch = Watch(program, observers)
    with progress(label, len(data)) as advance:
        for batch in data.batches():
            watch.run_batch(batch)
            advance(len(batch))


def profile(
    program: Program,
    nodes: Sequence[fx.Node],
    data: Dataset,
    progress: Progress,
    label: str,
    *,
    histograms: bool = False,
    more: Mapping[str, Sequence[Observer]] | None = None,
) -> dict[str, ValueFacts]:
    """Observe nodes while the program runs on data.

    Args:
        program: what to run.
        nodes: whose values to observe; floating-point tensors.
        data: every sample is used once.
        progress: shows the samples that are done, under `label`.
        histograms: whether to count magnitudes, too.
        more: other observers of the same run, by node name.

    Returns:
        Observations by node name.

    Raises:
        DataError: a value is NaN or infinite; names all nodes where that happened.
    """
    by_name = {node.name: node for node in nodes}
    seen = {name: Seen(histogram=histograms) for name in by_name}
    observers = {name: [*([seen[name]] if name in seen else []), *(more or {}).get(name, ())] for name in {*seen, *(more or {})}}
    observe(program, observers, data, progress, label)
    bad = [
        Problem(source_of(by_name[name]), "activation", "is NaN or infinite on this data") for name, one in seen.items() if not one.finite
    ]
    if bad:
        raise DataError("the program cannot be profiled on this data", bad)
    return {name: one.facts(len(data)) for name, one in seen.items()}


def remeasured(program: Program, values: Collection[str], data: Dataset, progress: Progress, label: str) -> Program:
    """A program whose values another pass has changed, with new facts: of the named values and of all that had facts before."""
    wanted = {*values, *program.facts.values}
    nodes = [node for node in program.graph.nodes if node.name in wanted]
    return program.with_facts(program.facts.with_values(profile(program, nodes, data, progress, label, histograms=True)))
