"""Samples in memory: inputs by name and labels, cut into batches and parts."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Dataset"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Dataset:
    """N samples.

    Attributes:
        inputs: name -> array (N, ...); the leading axis counts samples.
        labels: (N,) int64, or (N, T) for samples that are sequences of T positions; None without labels.
        unit: samples that must go into a call together, for a program with a fixed batch; None where any number may.
    """

    inputs: Mapping[str, Array]
    labels: Array | None = None
    unit: int | None = None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def part(self, rows: Array | slice) -> Dataset:
        """The samples at `rows`, in that order."""
        labels = None if self.labels is None else self.labels[rows]
        return Dataset({name: np.ascontiguousarray(array[rows]) for name, array in self.inputs.items()}, labels, self.unit)

    def take(self, count: int) -> Dataset:
        """The first `count` samples; fewer where there are fewer."""
        return self.part(slice(0, count))

    def batches(self, size: int = 64) -> Iterator[Dataset]:
        """Consecutive parts of `size` samples, the last one smaller; parts of `unit` samples where that is fixed."""
        step = self.unit or size
        for start in range(0, len(self), step):
            yield self.part(slice(start, start + step))

    def split(self, fraction: float, seed: int, *, in_order: bool = False) -> tuple[Dataset, Dataset]:
        """Two disjoint parts, drawn without looking at the data: `fraction` of the samples, and the rest.

        Both keep the original order. With one label a sample every class is divided in the same proportion. With fewer than two units of
        samples both parts are everything: there is nothing to hold back. Samples that are frames of a clip are divided at one point in
        time where `in_order` says so: the first part is the earlier one.
        """
        unit = self.unit or 1
        groups = len(self) // unit
        if groups < 2:
            return self, self
        if in_order:
            cut = unit * min(groups - 1, max(1, round(groups * fraction)))
            return self.part(slice(0, cut)), self.part(slice(cut, None))
        generator = np.random.default_rng(seed)
        order = generator.permutation(groups)
        if self.labels is not None and self.labels.ndim == 1 and unit == 1:
            order = _interleaved(order, self.labels)
        chosen = np.zeros(groups, bool)
        chosen[order[: min(groups - 1, max(1, round(groups * fraction)))]] = True
        rows = np.arange(len(self)).reshape(-1, unit) if unit > 1 else np.arange(groups)[:, None]
        return self.part(rows[chosen].reshape(-1)), self.part(rows[~chosen].reshape(-1))

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of names, dtypes, shapes and elements, in hex: it names the data in manifests and reports."""
        digest = hashlib.sha256()
        parts = {**self.inputs, **({} if self.labels is None else {"\0labels": self.labels})}
        for name in sorted(parts):
            array = parts[name]
            digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def _interleaved(order: Array, labels: Array) -> Array:
    """`order` rearranged so that every prefix holds the classes in about their proportions."""
    position = np.empty(len(order))
    for label in np.unique(labels):
        of_class = order[labels[order] == label]
        position[of_class] = (np.arange(len(of_class)) + 0.5) / len(of_class)
    return np.asarray(order[np.argsort(position[order], kind="stable")])
