"""The two planners of the arena: what lives together lies apart, but where one may lie over another; small plans reach the best arena."""

from __future__ import annotations

import itertools
import random

import pytest

from effc.lowering.arena import Lifetime, align, place
from effc.lowering.arena_search import busiest, place_tightly


def check(lifetimes: list[Lifetime], shared: dict[tuple[str, str], int], offsets: dict[str, int], total: int, alignment: int) -> None:
    for one in lifetimes:
        start, end = offsets[one.name], offsets[one.name] + one.size
        assert start % alignment == 0 and start >= 0 and end <= total
        for other in lifetimes:
            if one is other or one.first > other.last or other.first > one.last:
                continue
            apart = end <= offsets[other.name] or offsets[other.name] + other.size <= start
            behind = shared.get((one.name, other.name))
            before = shared.get((other.name, one.name))
            over = (behind is not None and start - offsets[other.name] >= behind) or (
                before is not None and offsets[other.name] - start >= before
            )
            assert apart or over, (one, other, offsets)


def drawn(seed: int, count: int) -> tuple[list[Lifetime], dict[tuple[str, str], int]]:
    """Results of a chain of steps, some of them read again later, and temporaries."""
    draw = random.Random(seed)
    items = []
    for step in range(count):
        size = 8 * draw.randint(1, 12)
        items.append(Lifetime(f"v{step}", size, step, step + draw.choice([1, 1, 1, 2, 3])))
    shared = {
        (one.name, other.name): 8 * draw.randint(-3, 6)
        for one in items
        for other in items
        if one.last == other.first and one.first < other.first and draw.random() < 0.5
    }
    return items, shared


def smallest(items: list[Lifetime], shared: dict[tuple[str, str], int]) -> int:
    """By trying all orders: each buffer at the lowest multiple of 8 that the ones before it leave."""
    best = sum(one.size for one in items)
    for order in itertools.permutations(items):
        placed: dict[str, int] = {}
        for one in order:
            for offset in itertools.count(0, 8):
                try:
                    check([*(two for two in items if two.name in placed), one], shared, {**placed, one.name: offset}, 1 << 30, 8)
                except AssertionError:
                    continue
                placed[one.name] = offset
                break
        best = min(best, max(placed[one.name] + one.size for one in items))
    return best


class TestPlaceTightly:
    @pytest.mark.parametrize("seed", range(6))
    def test_small_plans_get_the_best_arena(self, seed: int) -> None:
        items, shared = drawn(seed, 5)
        offsets, total = place_tightly(items, shared, 8)
        check(items, shared, offsets, total, 8)
        assert total == smallest(items, shared)
        assert total >= busiest(items, shared, 8)[0]

    @pytest.mark.parametrize("seed", range(8))
    def test_larger_plans_are_sound_and_the_same_in_any_order(self, seed: int) -> None:
        items, shared = drawn(seed, 40)
        offsets, total = place_tightly(items, shared, 8)
        check(items, shared, offsets, total, 8)
        assert total <= sum(one.size for one in items)
        assert place_tightly(items[::-1], shared, 8) == (offsets, total)

    def test_an_addition_in_place_saves_a_third(self) -> None:
        """x -> a = f(x) -> y = g(a) + x."""
        items = [Lifetime("x", 64, 0, 2), Lifetime("a", 64, 1, 2), Lifetime("y", 64, 2, 3)]
        assert place_tightly(items, {}, 8)[1] == busiest(items, {}, 8)[0] == 192
        offsets, total = place_tightly(items, {("x", "y"): 0}, 8)
        assert total == 128 and offsets["x"] == offsets["y"]
        assert busiest(items, {("x", "y"): 0}, 8) == (128, 1)

    def test_by_size_alone_is_not_enough(self) -> None:
        """The largest first leaves a hole that the others do not fill; an order by the search does."""
        items = [
            Lifetime("a", 40, 0, 1),
            Lifetime("b", 48, 1, 2),
            Lifetime("c", 24, 2, 4),
            Lifetime("d", 64, 4, 5),
            Lifetime("e", 24, 0, 4),
        ]
        assert place_tightly(items, {}, 8)[1] == smallest(items, {})

    def test_sizes_are_rounded_up_and_nothing_is_nothing(self) -> None:
        offsets, total = place_tightly([Lifetime("a", 3, 0, 1), Lifetime("b", 5, 0, 1)], {}, 8)
        assert (sorted(offsets.values()), total) == ([0, 8], 16)
        assert place_tightly([], {}, 8) == ({}, 0) and busiest([], {}, 8) == (0, 0)

    def test_a_long_chain_ends(self) -> None:
        items = [Lifetime(f"v{index}", 8 + index % 7 * 16, index, index + 1 + index % 3) for index in range(400)]
        offsets, total = place_tightly(items, {}, 8)
        check(items, {}, offsets, total, 8)


def test_the_other_targets_keep_their_plan() -> None:
    items = [Lifetime("a", 100, 0, 1), Lifetime("b", 300, 1, 2), Lifetime("c", 60, 2, 3), Lifetime("t", 10, 1, 1)]
    offsets, total = place(items)
    check(items, {}, offsets, total, 64)
    assert offsets == {"b": 0, "a": 320, "c": 320, "t": 448} and total == 512 and align(1) == 64
