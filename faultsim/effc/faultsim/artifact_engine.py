"""Injections on compiled code: faults in the parameters that it reads, whole passes, everything undone and checked.

A fault is written through the writable view that a `Session` gives of a parameter, after the verified load: the next call computes with it.
Compiled code is one function, so there is neither a late start nor an early stop: every injection costs a pass over all of its batches.

The code computes a fixed number of samples in a call. A smaller batch is filled up with copies of its last sample, as `Session.run` does
for everyone, and what comes of them is dropped: no outcome counts them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from effc.errors import ConfigError, InternalError
from effc.faultsim.artifact_sites import Held
from effc.faultsim.engine import Advance, record_of
from effc.faultsim.faults import Effect, Injection
from effc.faultsim.golden import same_bits
from effc.faultsim.images import Batch, BatchGroups
from effc.faultsim.inject import Faultable
from effc.faultsim.outcomes import Outcome, Reference
from effc.faultsim.records import Record
from effc.ir.arrays import to_numpy, to_torch
from effc.runtime import Session

__all__ = ["ArtifactEngine"]


@dataclass(frozen=True)
class _Golden:
    """The fault-free outputs of one batch, as arrays and as tensors, and what judges others by them."""

    arrays: list[NDArray[Any]]
    outputs: list[Tensor]
    reference: Reference


class ArtifactEngine:
    """Runs a loaded artifact.

    Args:
        session: the engine's own: its parameters are written while a fault is in.
        held: the stored tensors that faults can be in; injections name them by index.
        images: the batches, each at most the artifact's.
        effect: what a fault does.
        tolerance: see `Reference`.

    Raises:
        DataError: the code does not read one of the tensors.
        ConfigError: the view of a site is not the stored one.
    """

    def __init__(
        self, session: Session, held: Sequence[Held], images: BatchGroups, *, effect: Effect = "flip", tolerance: float | None = None
    ) -> None:
        self._session, self._held, self._images = session, tuple(held), images
        self._effect, self._tolerance = effect, tolerance
        self._tensors = [_shared(session.parameter_view(one.site.key), one.site.key) for one in self._held]
        self._faultable = [Faultable(tensor, one.site.view) for tensor, one in zip(self._tensors, self._held, strict=True)]
        self._kept: dict[tuple[int, int], _Golden] = {}

    def golden_run(self) -> Iterator[tuple[list[NDArray[Any]], Outcome]]:
        """See `Engine`."""
        for group in range(len(self._images)):
            for golden in self._goldens(group, self._images.batches(group)):
                yield golden.arrays, golden.reference.unharmed

    def run(self, injections: Sequence[Injection], advance: Advance = lambda count: None) -> list[Record]:
        """See `Engine`."""
        groups = {injection.batch_group for injection in injections}
        batches = {group: self._images.batches(group) for group in groups}
        goldens = {group: self._goldens(group, batches[group]) for group in groups}  # before any fault
        records = []
        for injection in injections:
            group = injection.batch_group
            records.append(self._one(injection, batches[group], goldens[group]))
            advance(1)
        for index in sorted({int(site) for injection in injections for site in injection.sites}):
            self._faultable[index].check()
        return records

    def _one(self, injection: Injection, batches: Sequence[Batch], goldens: Sequence[_Golden]) -> Record:
        applied: list[Faultable] = []
        flips, silent, words, outcome = 0, 0, (0, 0), Outcome()
        try:
            for index in np.unique(injection.sites):
                here = injection.sites == index
                where, target = self._held[index].map, self._faultable[index]
                elements = injection.elements[here] if where is None else where.places(injection.elements[here])
                before = self._word(int(index), int(elements[0]))
                changed = target.apply(
                    elements, injection.bits[here], self._effect, None if injection.values is None else injection.values[here]
                )
                applied.append(target)
                if injection.faults == 1:
                    words = before, self._word(int(index), int(elements[0]))
                flips, silent = flips + changed.flips, silent + changed.silent
            for batch, golden in zip(batches, goldens, strict=True):
                outcome += self._judged(batch, golden) if flips else golden.reference.unharmed
        finally:
            for target in applied:
                target.undo()
        return record_of(injection, outcome, (flips, silent, *words))

    def _word(self, index: int, element: int) -> int:
        return int(self._held[index].site.view.encode(self._tensors[index][element].reshape(1)))

    def _judged(self, batch: Batch, golden: _Golden) -> Outcome:
        outputs = [to_torch(array) for array in self._pass(batch)]
        if all(same_bits(new, old) for new, old in zip(outputs, golden.outputs, strict=True)):
            return golden.reference.unharmed
        return golden.reference.judge(outputs)

    def _pass(self, batch: Batch) -> list[NDArray[Any]]:
        given = {spec.name: to_numpy(tensor) for spec, tensor in zip(self._session.inputs, batch.inputs, strict=True)}
        results = self._session.run(given)
        return [results[spec.name] for spec in self._session.outputs]

    def _goldens(self, group: int, batches: Sequence[Batch]) -> list[_Golden]:
        found = []
        for index, batch in enumerate(batches):
            if (group, index) not in self._kept:
                arrays = self._pass(batch)
                if self._session.threads_used != self._session.threads:
                    raise ConfigError(
                        f"{self._session.threads} threads are asked for, and this process gets {self._session.threads_used}: "
                        "their number is part of the campaign; ask for fewer"
                    )
                outputs = [to_torch(array) for array in arrays]
                self._kept[group, index] = _Golden(arrays, outputs, Reference(outputs, batch.labels, self._tolerance))
            found.append(self._kept[group, index])
        return found


def _shared(view: NDArray[Any], name: str) -> Tensor:
    """A parameter's elements in C order, in the memory that the code reads."""
    tensor = to_torch(view.reshape(-1))
    if tensor.data_ptr() != view.__array_interface__["data"][0]:
        raise InternalError(f"the parameter {name} was copied on its way to torch, so no fault would reach the compiled code")
    return tensor
