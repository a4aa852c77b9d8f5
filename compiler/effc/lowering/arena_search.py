"""The smallest arena that a bounded search finds: for machines whose memory is the model's limit, and plans whose results may lie over
what their step reads last (`effc.lowering.aliasing`).

Buffers are placed one after another, each at the lowest place that the buffers before it leave. Which order is best? Some are tried that do
well (by size, by lifetime), and improved: what ends highest gets an earlier turn, as long as that does no harm. Then orders in which
offsets rise are searched depth first, a branch being left as soon as one of its buffers would end above the best arena so far; that finds
the best arena of small plans. Nothing is searched any more when the arena is as small as the busiest step needs, and no search compares
more than a fixed number of buffers, so that the same program gets the same plan everywhere.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from effc.lowering.arena import Lifetime

__all__ = ["busiest", "place_tightly"]

_COMPARED = 500_000  # pairs of buffers, by each search: a tenth of a second or two
_DEEPEST = 200  # buffers: the search is as deep

Shared = Mapping[tuple[str, str], int]


def place_tightly(lifetimes: Sequence[Lifetime], shared: Shared, alignment: int) -> tuple[dict[str, int], int]:
    """Offsets by name, all aligned, and the size of the whole arena in bytes.

    Args:
        lifetimes: of the buffers; names are unique.
        shared: (read, written) -> bytes by which the written buffer must begin in front of the read one where they overlap. Both are
            alive in one step only, the last of the one and the first of the other. Pairs that are not named may not overlap.
        alignment: of all offsets and of the whole.
    """
    return _Search(lifetimes, shared, alignment).run()


def busiest(lifetimes: Sequence[Lifetime], shared: Shared, alignment: int) -> tuple[int, int]:
    """The bytes that no arrangement can do without, and the first step that needs so many; (0, 0) without buffers.

    A step needs what is alive in it, less what its results may share with what it reads last.
    """
    most, at = 0, 0
    steps = sorted({step for one in lifetimes for step in (one.first, one.last)})
    sizes = {one.name: _up(one.size, alignment) for one in lifetimes}
    for step in steps:
        alive = {one.name for one in lifetimes if one.first <= step <= one.last}
        saved: dict[str, int] = {}
        for (read, written), distance in shared.items():
            if read in alive and written in alive:
                both = max(sizes[written], sizes[read] + max(_up(distance, alignment), 0))
                saved[read] = min(saved.get(read, 0) + max(sizes[read] + sizes[written] - both, 0), sizes[read])
        need = sum(sizes[name] for name in alive) - sum(saved.values())
        if need > most:
            most, at = need, step
    return most, at


def _up(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


class _Search:
    def __init__(self, lifetimes: Sequence[Lifetime], shared: Shared, alignment: int) -> None:
        self._items = sorted(lifetimes, key=lambda one: (-one.size, one.first, one.name))
        self._sizes = [_up(one.size, alignment) for one in self._items]
        count = len(self._items)
        # Of each pair that may meet: where `other` may not begin, relative to the place of `item`: between the two numbers, both excluded.
        self._gaps: list[list[tuple[int, int] | None]] = [[None] * count for _ in range(count)]
        for index, item in enumerate(self._items):
            for number, other in enumerate(self._items):
                if index != number and item.first <= other.last and other.first <= item.last:
                    self._gaps[index][number] = self._gap(index, number, shared, alignment)
        self._bound, _ = busiest(lifetimes, shared, alignment)
        self._best: list[int] = [0] * count
        self._total: int | None = None
        self._placed: dict[int, int] = {}
        self._compared = 0

    def _gap(self, index: int, number: int, shared: Shared, alignment: int) -> tuple[int, int]:
        item, other, size, own = self._items[index], self._items[number], self._sizes[index], self._sizes[number]
        if (item.name, other.name) in shared:  # `other` is written over `item`
            distance = _up(shared[item.name, other.name], alignment)
            return -min(distance, own), size
        if (other.name, item.name) in shared:
            distance = _up(shared[other.name, item.name], alignment)
            return -own, min(distance, size)
        return -own, size

    def run(self) -> tuple[dict[str, int], int]:
        if not self._items:
            return {}, 0
        items, everything = self._items, range(len(self._items))
        spans = {index: items[index].last - items[index].first for index in everything}
        orders = [
            list(everything),
            sorted(everything, key=lambda index: (-spans[index], -self._sizes[index], items[index].first)),
            sorted(everything, key=lambda index: (-spans[index] * self._sizes[index], items[index].first)),
            sorted(everything, key=lambda index: (items[index].first, -self._sizes[index])),
            sorted(everything, key=lambda index: (-items[index].last, -self._sizes[index])),
        ]
        for order in orders:
            self._improve(order)
        self._compared = 0
        if self._total != self._bound and len(items) <= _DEEPEST:
            self._deeper({}, 0)
        assert self._total is not None
        return {item.name: self._best[index] for index, item in enumerate(items)}, self._total

    def _lowest(self, index: int, placed: Mapping[int, int], floor: int) -> int:
        """The lowest place of a buffer that is not below `floor`."""
        self._compared += len(placed) + 1
        found = ((place, self._gaps[other][index]) for other, place in placed.items())
        taken = sorted((place + gap[0], place + gap[1]) for place, gap in found if gap is not None and gap[0] < gap[1])
        offset = floor
        for low, high in taken:  # by where they begin: what was passed does not come again
            if low < offset < high:
                offset = high
        return offset

    def _greedy(self, order: Sequence[int]) -> int:
        """The arena of an order; the last placement is kept in `_placed`."""
        placed: dict[int, int] = {}
        for index in order:
            placed[index] = self._lowest(index, placed, 0)
        self._placed = placed
        return self._keep(placed)

    def _keep(self, placed: Mapping[int, int]) -> int:
        total = max(place + self._sizes[index] for index, place in placed.items())
        if self._total is None or total < self._total:
            self._total, self._best = total, [placed[index] for index in range(len(self._items))]
        return total

    def _improve(self, order: Sequence[int]) -> None:
        """Let what ends highest choose its place earlier, at a turn that is drawn (the same in every run)."""
        self._compared, draw, best = 0, random.Random(0), list(order)
        least = self._greedy(best)
        placed = self._placed
        while self._total != self._bound and self._compared < _COMPARED:
            top = [index for index in best if placed[index] + self._sizes[index] == least]
            moved = top[int(draw.random() * len(top))]  # of a generator, only `random` is promised to stay the same
            changed = [index for index in best if index != moved]
            changed.insert(int(draw.random() * (best.index(moved) or len(best))), moved)
            total = self._greedy(changed)
            if total <= least:
                best, least, placed = changed, total, self._placed

    def _deeper(self, placed: dict[int, int], floor: int) -> None:
        """Place what is left in orders in which offsets rise."""
        assert self._total is not None
        if len(placed) == len(self._items):
            self._keep(placed)
            return
        choices = []
        for index in range(len(self._items)):
            if index not in placed:
                place = self._lowest(index, placed, floor)
                if place + self._sizes[index] >= self._total:
                    return  # it only rises
                choices.append((place, index))
        choices.sort()
        for place, index in choices:
            if self._compared >= _COMPARED or self._total == self._bound:
                return
            self._deeper({**placed, index: place}, place)
