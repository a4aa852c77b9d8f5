"""Pools at a list of positions: the maximum or the sum of a window, recomputed where something in it moved.

A window's columns are folded first and then joined, as in the dense kernel, and what lies outside of the image is left out as there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from effc.lowering.kernels.code import allocated, choose, flat_function, floats, integer, load, local, loop, sequence, store, vector
from effc.lowering.kernels.fused import Fused
from effc.lowering.kernels.implementation import Implementation
from effc.lowering.kernels.integer_vectors import vector_load
from effc.lowering.kernels.listed_results import Results, propagated
from effc.lowering.kernels.moved import vector_pieces
from effc.lowering.kernels.pixel_list import TASKS, Listed, Work, listed
from effc.lowering.kernels.pool import larger, pooled
from effc.lowering.kernels.tiles import lanes_of
from effc.targets import Target

__all__ = ["PoolWindows", "listed_pool", "read_pool"]

_MOST_TAPS = 25


@dataclass(frozen=True)
class PoolWindows:
    """A pool anchor: which argument it reads, and its window along each axis."""

    source: int
    sizes: tuple[int, ...]
    channels: int
    window: tuple[int, ...]
    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    before: tuple[int, ...]
    largest: bool


def read_pool(fused: Fused) -> PoolWindows | None:
    """The pool of a function over one 2-D image that is an argument of it; None for another function."""
    source = pooled(fused)
    if source is None:
        return None
    argument = fused.argument(source)
    batch, *sizes, channels = (int(size) for size in source.shape)
    if argument is None or batch != 1 or len(sizes) != 2:
        return None
    numbers = {name: fused.numbers(name) for name in ("window", "strides", "dilation", "before")}
    return PoolWindows(argument, tuple(sizes), channels, largest=fused.kind == "max_pool", **numbers)


def listed_pool(fused: Fused, fixed: Sequence[bool], what: Listed, results: Results, target: Target) -> Implementation | None:
    """The kernel, with arguments like those of `listed_convolution`; None for what it does not take."""
    from tvm import tirx

    pool = read_pool(fused)
    if pool is None or math.prod(pool.window) > _MOST_TAPS:
        return None
    lanes, epilogue = lanes_of(target, "float32"), fused.epilogue()
    source = fused.arguments[pool.source]
    values = tirx.decl_buffer((TASKS, pool.channels), "float32", name="values")

    def within(at: Any, axis: int) -> Any:
        return tirx.And(at >= 0, at < pool.sizes[axis])

    def window(work: Work, y: Any, x: Any, channel: Any, size: int) -> Any:
        """The pool of some channels of a position: each column of its window, and then all of them."""
        fold, column = local(size, "fold"), local(size, "column")
        top, left = y * pool.strides[0] - pool.before[0], x * pool.strides[1] - pool.before[1]
        start = floats(-math.inf if pool.largest else 0.0)

        def begun(buffer: Any) -> Any:
            return vector(size, lambda lane: store(buffer, start, [lane]))

        def joined(buffer: Any, element: Callable[[Any], Any]) -> Any:
            def step(lane: Any) -> Any:
                old = load(buffer, [lane])
                return store(buffer, larger(old, element(lane)) if pool.largest else old + element(lane), [lane])

            return vector(size, step)

        def down(tap: int) -> Any:
            at = left + tap * pool.dilation[1]

            def element(row: int) -> Any:
                line = top + row * pool.dilation[0]
                one = joined(column, lambda lane: load(source, [0, line, at, channel + lane]))
                return choose(within(line, 0), one, tirx.Evaluate(integer(0)))

            rows = [element(row) for row in range(pool.window[0])]
            whole = sequence([begun(column), *rows, joined(fold, lambda lane: load(column, [lane]))])
            return choose(within(at, 1), whole, tirx.Evaluate(integer(0)))

        def result(lane: Any) -> Any:
            return store(values, epilogue.value([integer(0), y, x, channel + lane], load(fold, [lane])), [work.task, channel + lane])

        return allocated([fold, column], [begun(fold), *(down(tap) for tap in range(pool.window[1])), vector(size, result)])

    def entry(work: Work, number: Any) -> Any:
        y, x = work.at(number)
        whole = pool.channels // lanes
        parts: list[Any] = [loop(whole, lambda block: window(work, y, x, block * lanes, lanes), name="block")] if whole else []
        parts += [window(work, y, x, integer(first), size) for first, size in vector_pieces(pool.channels, lanes) if size < lanes]

        def new(first: int, size: int) -> Any:
            return vector_load(values, [work.task, integer(first)], size)

        return sequence([*parts, propagated(results, lanes, new, y, x)])

    body = allocated([values], [listed(what, lambda work: loop(work.count, lambda number: entry(work, number), name="entry"))])
    return Implementation(flat_function([*fused.arguments[:-1], *what.arguments(results.state)], body), "listed pool")
