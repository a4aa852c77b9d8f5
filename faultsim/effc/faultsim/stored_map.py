"""Where compiled code keeps each element of a source tensor.

A kernel wants its weights in its own order: axes moved, some of them cut into blocks whose elements lie side by side, the last block filled
up with zeros. The artifact's manifest says how (`effc.runtime.manifest.StoredTensor`): index i of an axis with blocks of b goes to block
i // b, place i % b. Zeros that fill up have no source element, so whoever counts source elements never counts them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effc.errors import VerificationError
from effc.faultsim.faults import Indices
from effc.runtime.manifest import StoredTensor

__all__ = ["StoredMap"]

_CHUNK = 1 << 20  # elements that are mapped at a time when a whole tensor is checked


@dataclass(frozen=True)
class StoredMap:
    """The place of every source element.

    Attributes:
        source: shape of the source tensor.
        order: which source axis comes where.
        blocks: (source axis, size of a block) of the stored tensor's last axes; an axis may be cut more than once, the coarser cut first.
    """

    source: tuple[int, ...]
    order: tuple[int, ...]
    blocks: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, entry: StoredTensor, source: Sequence[int]) -> StoredMap | None:
        """The map of a stored tensor whose source has that shape; None for kind `transformed`, which has none.

        Raises:
            VerificationError: the manifest's axes are not the source's.
        """
        if entry.kind not in ("same", "permutation", "packed"):
            return None
        axes = tuple(range(len(source)))
        order = axes if entry.permutation is None else entry.permutation
        blocks = entry.blocks or ()
        if sorted(order) != list(axes) or any(axis not in axes or size < 1 for axis, size in blocks):
            raise VerificationError(f"the axes {list(order)} with the blocks {list(blocks)} are not those of a shape {list(source)}")
        return cls(tuple(source), order, blocks)

    @property
    def stored(self) -> tuple[int, ...]:
        """Shape of the stored tensor."""
        outer = [-(-self.source[axis] // self._whole(axis)) for axis in self.order]
        return (*outer, *(size for _, size in self.blocks))

    def places(self, elements: Indices) -> Indices:
        """Flat elements of the stored tensor for flat elements of the source: (k,) int64, both in C order. No two are the same."""
        if not self.blocks and self.order == tuple(range(len(self.source))):
            return elements
        index = np.unravel_index(elements, self.source)
        outer = [index[axis] // self._whole(axis) for axis in self.order]
        rest = [index[axis] % self._whole(axis) for axis in range(len(self.source))]
        inner = []
        for number, (axis, size) in enumerate(self.blocks):
            finer = math.prod(one for other, one in self.blocks[number + 1 :] if other == axis)
            inner.append(rest[axis] // finer % size)
        return np.asarray(np.ravel_multi_index((*outer, *inner), self.stored), np.int64)

    def check(self, stored: NDArray[Any], source: NDArray[Any]) -> None:
        """Compare all source elements, bit for bit, with what is stored at their places.

        Raises:
            VerificationError: shape, dtype or a value is another one.
        """
        if stored.shape != self.stored or source.shape != self.source or stored.dtype != source.dtype:
            raise VerificationError(
                f"{stored.dtype}{list(stored.shape)} is stored; the map of {source.dtype}{list(source.shape)} says {list(self.stored)}"
            )
        words, expected = _words(stored), _words(source)
        for elements in self._all():
            if not np.array_equal(words[self.places(elements)], expected[elements]):
                raise VerificationError("the stored values are not the source's at the places that the map says")

    def _whole(self, axis: int) -> int:
        return math.prod(size for one, size in self.blocks if one == axis)

    def _all(self) -> Iterator[Indices]:
        count = math.prod(self.source)
        for start in range(0, count, _CHUNK):
            yield np.arange(start, min(start + _CHUNK, count), dtype=np.int64)


def _words(array: NDArray[Any]) -> NDArray[np.unsignedinteger]:
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(np.dtype(f"u{array.dtype.itemsize}"))
