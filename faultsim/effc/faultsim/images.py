"""Which samples run together: the campaign's batches, fixed once, so that golden and faulty runs share them.

With *images per fault* every fault is tried on one group of that many samples; the groups are a seeded partition of the data, and each
fault draws one. Without, there is one group: everything. A group is cut into batches; the outputs of a batch depend on its size in the last
bits, so the cut is part of the campaign.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from effc.data import Dataset
from effc.errors import DataError, counted
from effc.ir.arrays import to_torch

__all__ = ["Batch", "BatchGroups"]


@dataclass(frozen=True)
class Batch:
    """Samples of one pass: inputs in the interface's order, and labels."""

    inputs: tuple[Tensor, ...]
    labels: Tensor | None


class BatchGroups:
    """Groups of samples, each a list of batches.

    Args:
        data: the samples. `names`: of the inputs, in call order.
        images: how many to use, from the first; None for all. `per_fault`: samples of a group; None for one group of everything.
        batch: samples of a pass. `seed`: of the partition.

    Samples that do not fill a group are left out: `used` says how many are in one.

    Raises:
        DataError: too few samples.
    """

    def __init__(self, data: Dataset, names: Sequence[str], *, images: int | None, per_fault: int | None, batch: int, seed: int) -> None:
        total = len(data) if images is None else images
        if total > len(data):
            raise DataError(f"{counted(total, 'image')} are asked for, and the data have {counted(len(data), 'sample')}")
        unit = data.unit or 1
        size = total if per_fault is None else per_fault
        if size % unit or (data.unit and per_fault is None and total % unit):
            raise DataError(f"the program takes exactly {counted(unit, 'sample')} at a time: choose multiples of it")
        if size > total:
            raise DataError(f"{counted(size, 'image')} per fault are asked for, and {counted(total, 'sample')} are there")
        rows = np.arange(total)
        if per_fault is not None:
            blocks = np.random.default_rng(seed).permutation(total // unit)[:, None] * unit + np.arange(unit)
            rows = blocks.reshape(-1)
        count = total // size
        self.rows = [np.sort(rows[group * size : (group + 1) * size]) for group in range(count)]
        self.batch = data.unit or min(batch, size)
        self._data = data
        self._names = list(names)
        self._last: tuple[int, list[Batch]] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def used(self) -> int:
        """Samples that are in a group."""
        return sum(len(rows) for rows in self.rows)

    def batches(self, group: int) -> list[Batch]:
        """The batches of one group. Those of the last one are kept: it is often asked for again."""
        if self._last is None or self._last[0] != group:
            self._last = group, [self._batch(part) for part in self._data.part(self.rows[group]).batches(self.batch)]
        return self._last[1]

    def _batch(self, part: Dataset) -> Batch:
        labels = None if part.labels is None else torch.from_numpy(np.ascontiguousarray(part.labels))
        return Batch(tuple(to_torch(part.inputs[name]) for name in self._names), labels)
