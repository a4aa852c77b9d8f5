"""Injections on compiled code: faults in the parameters that it reads, whole passes, everything undone and checked.

A fault is written through the writable view that a `Session` gives of a parameter, after the verified load: the next call computes with it.
Compiled code is one function, so there is neither a late start nor an early stop: every injection costs a pass over all of its batches.

The code computes a fixed number of samples in a call. A smaller batch is filled up with copies of its last sample, as `Session.run` does
for everyone, and what comes of them is dropped: no outcome counts them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from effc.errors import ConfigError, InternalError
from effc.faultsim.artifact_sites import Held
from effc.faultsim.engine import Advance, record_of
from effc.faultsim.faults import Effect, Indices, Injection
from effc.faultsim.golden import same_bits
from effc.faultsim.images import Batch, BatchGroups
from effc.faultsim.inject import Changed, Faultable
from effc.faultsim.outcomes import Outcome, Reference
from effc.faultsim.records import Record
from effc.ir.arrays import to_numpy, to_torch
from effc.runtime import Session

__all__ = ["ArtifactEngine"]

_BITS = {1: "u1", 2: "u2", 4: "u4", 8: "u8"}


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
        self._words: list[NDArray[np.unsignedinteger]] = []
        self._faultable: list[Faultable] = []
        for one in self._held:
            flat = _flat(session.parameter_view(one.site.key), one.site.key)
            self._words.append(flat.view(_BITS[flat.itemsize]))
            self._faultable.append(Faultable(_shared(flat, one.site.key), one.site.view))
        self._kept: dict[tuple[int, int], _Golden] = {}

    def golden_outputs(self) -> list[list[NDArray[Any]]]:
        """See `Engine`."""
        return [golden.arrays for group in range(len(self._images)) for golden in self._goldens(group, self._images.batches(group))]

    def golden_outcome(self) -> Outcome:
        """See `Engine`."""
        total = Outcome()
        for group in range(len(self._images)):
            for golden in self._goldens(group, self._images.batches(group)):
                total += golden.reference.unharmed
        return total

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
        counts = [0, 0]
        words = (0, 0)
        outcome = Outcome()
        try:
            for index in np.unique(injection.sites):
                here = injection.sites == index
                places = self._places(int(index), injection.elements[here])
                values = None if injection.values is None else injection.values[here]
                before = int(self._words[index][places[0]])
                changed = self._applied(int(index), places, injection.bits[here], values, applied)
                if injection.faults == 1:
                    words = (_signed(before, self._words[index]), _signed(int(self._words[index][places[0]]), self._words[index]))
                counts[0] += changed.flips
                counts[1] += changed.silent
            for batch, golden in zip(batches, goldens, strict=True):
                outcome += self._judged(batch, golden) if counts[0] else golden.reference.unharmed
        finally:
            for target in applied:
                target.undo()
        return record_of(injection, outcome, (counts[0], counts[1], *words))

    def _applied(
        self, index: int, places: Indices, bits: Indices, values: NDArray[np.bool_] | None, applied: list[Faultable]
    ) -> Changed:
        target = self._faultable[index]
        changed = target.apply(places, bits, self._effect, values)
        applied.append(target)
        return changed

    def _places(self, index: int, elements: Indices) -> Indices:
        where = self._held[index].map
        return elements if where is None else where.places(elements)

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


def _flat(view: NDArray[Any], name: str) -> NDArray[Any]:
    """A parameter's elements in C order, in the memory that the code reads."""
    flat = view.reshape(-1)
    if not (view.flags.writeable and np.shares_memory(flat, view)):
        raise InternalError(f"the parameter {name} cannot be written in place, so no fault would reach the code")
    return flat


def _shared(flat: NDArray[Any], name: str) -> Tensor:
    """A tensor in the same memory."""
    tensor = to_torch(flat)
    if tensor.data_ptr() != flat.__array_interface__["data"][0]:
        raise InternalError(f"the parameter {name} was copied on its way to torch, so no fault would reach the code")
    return tensor


def _signed(word: int, words: NDArray[np.unsignedinteger]) -> int:
    """A word as the campaigns on programs keep it: two's complement of its own width."""
    bits = 8 * words.itemsize
    return word - (1 << bits) if word >> (bits - 1) else word
