"""Static memory planning: where every intermediate lies in one block, so that no inference allocates.

Buffers whose lifetimes overlap get disjoint places. Largest first, each at the lowest offset that fits (greedy by size: within a few per
cent of optimal on convolutional networks, and never worse than the sum).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from effc.runtime.plan import ALIGNMENT

__all__ = ["Lifetime", "align", "place"]


@dataclass(frozen=True)
class Lifetime:
    """A buffer of `size` bytes, alive from step `first` (which writes it) through step `last` (which reads it last)."""

    name: str
    size: int
    first: int
    last: int


def align(size: int) -> int:
    """Rounded up to the alignment of the plan."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def place(lifetimes: Sequence[Lifetime]) -> tuple[dict[str, int], int]:
    """Offsets by name, all aligned, and the size of the whole arena in bytes."""
    placed: list[tuple[int, Lifetime]] = []
    for item in sorted(lifetimes, key=lambda item: (-item.size, item.first, item.name)):
        offset = 0
        for start, other in sorted(
            ((start, other) for start, other in placed if other.first <= item.last and item.first <= other.last),
            key=lambda entry: entry[0],
        ):
            if offset + align(item.size) <= start:
                break
            offset = max(offset, start + align(other.size))
        placed.append((offset, item))
    total = max((offset + align(item.size) for offset, item in placed), default=0)
    return {item.name: offset for offset, item in placed}, total
