"""Injections on a program in torch: faults in stored tensors in place, faults in values on the way, everything undone and checked."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from effc.errors import ConfigError, Problem
from effc.faultsim.faults import Effect, Indices, Injection
from effc.faultsim.formats import NumberView
from effc.faultsim.golden import Change, Golden, OperatorError, Runner
from effc.faultsim.images import Batch, BatchGroups
from effc.faultsim.inject import Faultable, faulted_values, quantise
from effc.faultsim.outcomes import Outcome, Reference
from effc.faultsim.records import Record
from effc.faultsim.sites import Site
from effc.ir import Program
from effc.ir.arrays import to_numpy

__all__ = ["Advance", "Engine", "ProgramEngine", "record_of"]

Advance = Callable[[int], None]


class Engine(Protocol):
    """Something that runs injections."""

    def golden_run(self) -> Iterator[tuple[list[NDArray[Any]], Outcome]]:
        """The fault-free results of every batch of every group, in order, and how many labels they got right (`correct`)."""
        ...

    def run(self, injections: Sequence[Injection], advance: Advance) -> list[Record]:
        """One record for each injection, in their order. `advance` is told of each one that is done."""
        ...


class ProgramEngine:
    """Runs a `Program` node by node (`effc.faultsim.golden`).

    Args:
        program: it is not changed: faults are made in a private copy of its tensors, whose values are first rounded to the sites' views.
        sites: where faults can be; injections name them by index.
        images: the batches.
        effect: what a fault does.
        tolerance: see `Reference`.
        memory: bytes for golden values; at least one batch is kept.
        early_stop, late_start: see `Runner`.

    Raises:
        DataError: a tensor holds NaN or infinities that the view has no word for.
        ConfigError: two sites share memory, so that a fault in one would be one in the other.
    """

    def __init__(
        self,
        program: Program,
        sites: Sequence[Site],
        images: BatchGroups,
        *,
        effect: Effect = "flip",
        tolerance: float | None = None,
        memory: int = 1 << 30,
        early_stop: bool = True,
        late_start: bool = True,
    ) -> None:
        self._sites, self._images, self._effect, self._tolerance = tuple(sites), images, effect, tolerance
        stored = {index: site for index, site in enumerate(self._sites) if site.is_stored}
        _refuse_shared(program, list(stored.values()))
        names = program.tensor_names
        copies = {
            names[site.key]: program.tensors[site.key].detach().clone(memory_format=torch.contiguous_format) for site in stored.values()
        }
        self.program = program.with_parameters(copies)
        self._views: dict[int, NumberView] = {}
        self._faultable: dict[int, Faultable] = {}
        for index, site in stored.items():
            tensor = self.program.tensors[site.key].detach()
            self._views[index] = quantise(tensor, site.view)
            self._faultable[index] = Faultable(tensor, self._views[index])
        self._runner = Runner(self.program, early_stop=early_stop, late_start=late_start)
        self._kept: OrderedDict[tuple[int, int], tuple[Golden, Reference]] = OrderedDict()
        self._memory, self._held = memory, 0

    def golden_run(self) -> Iterator[tuple[list[NDArray[Any]], Outcome]]:
        """See `Engine`."""
        for group in range(len(self._images)):
            for index, batch in enumerate(self._images.batches(group)):
                golden, reference = self._golden(group, index, batch)
                yield [to_numpy(one) for one in golden.outputs], reference.unharmed

    def run(self, injections: Sequence[Injection], advance: Advance = lambda count: None) -> list[Record]:
        """See `Engine`. Injections of one group of images share its golden run."""
        done: dict[int, Record] = {}
        by_images: dict[int, list[int]] = {}
        for position, injection in enumerate(injections):
            by_images.setdefault(injection.batch_group, []).append(position)
        for group, positions in by_images.items():
            batches = self._images.batches(group)
            totals = [Outcome()] * len(positions)
            facts: list[tuple[int, int, int, int]] = [(0, 0, 0, 0)] * len(positions)
            for index, batch in enumerate(batches):
                golden, reference = self._golden(group, index, batch)
                for turn, position in enumerate(positions):
                    outcome, facts[turn] = self._one(injections[position], golden, reference, facts[turn], index == 0)
                    totals[turn] += outcome
                    if index == len(batches) - 1:
                        advance(1)
            for turn, position in enumerate(positions):
                done[position] = record_of(injections[position], totals[turn], facts[turn])
        for index in sorted({int(site) for injection in injections for site in injection.sites} & self._faultable.keys()):
            self._faultable[index].check()
        return [done[position] for position in range(len(injections))]

    def _one(
        self, injection: Injection, golden: Golden, reference: Reference, facts: tuple[int, int, int, int], first: bool
    ) -> tuple[Outcome, tuple[int, int, int, int]]:
        """The outcome on one batch; flips, silent bits, and the word before and after, as seen on the first batch."""
        if not len(injection.sites):
            return reference.unharmed, facts
        applied: list[Faultable] = []
        stored: list[str] = []
        changes: dict[str, Change] = {}
        counts = [0, 0]
        words = (0, 0)
        try:
            for index in np.unique(injection.sites):
                here = injection.sites == index
                elements, bits = injection.elements[here], injection.bits[here]
                values = None if injection.values is None else injection.values[here]
                site = self._sites[index]
                if site.is_stored:
                    target = self._faultable[int(index)]
                    before = self._word(int(index), elements) if first and injection.faults == 1 else 0
                    changed = target.apply(elements, bits, self._effect, values)
                    applied.append(target)
                    if first and injection.faults == 1:
                        words = (before, self._word(int(index), elements))
                    counts[0] += changed.flips
                    counts[1] += changed.silent
                    if changed.flips:
                        stored.append(site.key)
                else:
                    changes[site.key] = self._change(site, elements, bits, values, golden, counts)
            outputs = self._runner.rerun(golden, stored, changes).outputs
            outcome = reference.unharmed if outputs is None else reference.judge(outputs)
        except OperatorError:
            outcome = reference.failed
        finally:
            for target in applied:
                target.undo()
        return outcome, (counts[0], counts[1], *words) if first else facts

    def _word(self, index: int, elements: Indices) -> int:
        site = self._sites[index]
        element = self.program.tensors[site.key].detach().view(-1)[int(elements[0])].reshape(1)
        return int(self._views[index].encode(element))

    def _change(
        self, site: Site, elements: Indices, bits: Indices, values: NDArray[np.bool_] | None, golden: Golden, counts: list[int]
    ) -> Change:
        """The fault on every sample of a value. Counts are those of one sample, on average."""
        reached = len(elements)
        view = site.view.fitted(golden.values[self._runner.position(site.key)])  # a scale comes from the golden value, never a faulty one

        def change(value: Tensor) -> Tensor:
            samples = len(value)
            places = (np.arange(samples)[:, None] * site.elements + elements).reshape(-1)
            drawn = None if values is None else np.tile(values, samples)
            copy, changed = faulted_values(value, places, np.tile(bits, samples), self._effect, drawn, view)
            flips = -(-changed.flips // samples)  # a bit that changed in any sample is no silent one
            counts[0] += flips
            counts[1] += reached - flips
            return copy

        return change

    def _golden(self, group: int, index: int, batch: Batch) -> tuple[Golden, Reference]:
        """From memory, or computed; what was not used for longest makes room."""
        key = (group, index)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        golden = self._runner.golden(batch.inputs)
        reference = Reference([one.clone() for one in golden.outputs], batch.labels, self._tolerance)
        size = golden.nbytes
        while self._kept and self._held + size > self._memory:
            _, (old, _) = self._kept.popitem(last=False)
            self._held -= old.nbytes
        self._kept[key] = golden, reference
        self._held += size
        return golden, reference


def record_of(injection: Injection, outcome: Outcome, facts: tuple[int, int, int, int]) -> Record:
    """A record from what was counted. `facts`: flips, silent bits, the word before and after."""
    flips, silent, before, after = facts
    return Record(injection.group, injection.draw, flips, silent, before=before, after=after, **vars(outcome))


def _refuse_shared(program: Program, sites: Sequence[Site]) -> None:
    seen: dict[int, Site] = {}
    problems = []
    for site in sites:
        where = program.tensors[site.key].untyped_storage().data_ptr()
        if where in seen:
            problems.append(Problem(site.name, "shares its memory", f"with {seen[where].name}", "take one of them with --layers"))
        seen[where] = site
    if problems:
        raise ConfigError("a fault in one tensor would be one in another", problems)
