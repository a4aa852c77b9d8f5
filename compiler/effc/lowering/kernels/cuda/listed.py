"""Convolutions, pools and functions of single pixels at the positions that may have moved, on a device (`positions`).

A thread computes one channel: neighbouring threads read neighbouring weights, and the image's elements are the same for all of a warp. Of
a convolution without groups a thread takes the same channel of some listed positions, so that they share a weight. Windows that stick out
over the image read zeros there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from effc.lowering.kernels.code import allocated, floats, integer, load, store
from effc.lowering.kernels.conv import Convolution, read
from effc.lowering.kernels.cuda.block import Block
from effc.lowering.kernels.cuda.code import every, registers, rolled, when
from effc.lowering.kernels.cuda.positions import MOST_CHANNELS, Entries, Result, position_kernel, under
from effc.lowering.kernels.fused import Fused
from effc.lowering.kernels.implementation import Implementation
from effc.lowering.kernels.inlining import NotInlinableError, inlined
from effc.lowering.kernels.listed_pool import read_pool
from effc.lowering.kernels.listed_results import Results
from effc.lowering.kernels.packing import Packed
from effc.lowering.kernels.pixel_list import Listed
from effc.lowering.kernels.pool import larger
from effc.targets import Target

__all__ = ["listed_convolution", "listed_map", "listed_pool"]

_TOGETHER = 4  # positions that share a weight
_AT_ONCE = 4  # input channels whose loads are under way together


def listed_convolution(fused: Fused, fixed: Sequence[bool], what: Listed | None, results: Results, target: Target) -> Implementation | None:
    """A convolution of any groups; None for what it does not take. Arguments: see `position_kernel`."""
    from tvm import tirx

    if fused.kind != "convolution" or str(fused.anchor.buffer.dtype) != "float32":
        return None
    conv = read(fused)
    fits = conv.batch == 1 and len(conv.sizes) == 2 and fused.argument(conv.input) is not None and results.channels == conv.features
    if not fixed[conv.weight] or not fits or conv.features > MOST_CHANNELS or str(fused.arguments[conv.weight].dtype) != "float32":
        return None
    packed = tirx.decl_buffer((*conv.window, conv.channels, conv.features), "float32", name="packed")
    arguments = [packed if index == conv.weight else buffer for index, buffer in enumerate(fused.arguments) if buffer is not fused.result]
    function = position_kernel(arguments, what, results, target, _Sums(fused, conv, packed).computing)
    depthwise = conv.groups > 1 and conv.channels == 1
    return Implementation(function, _family("depthwise" if depthwise else "conv", what), {conv.weight: Packed((1, 2, 3, 0))})


def listed_pool(fused: Fused, fixed: Sequence[bool], what: Listed | None, results: Results, target: Target) -> Implementation | None:
    """The maximum or the sum of each window; None for another function."""
    pool = read_pool(fused)
    if pool is None or pool.channels > MOST_CHANNELS:
        return None
    source, epilogue = fused.arguments[pool.source], fused.epilogue()
    start = floats(-math.inf if pool.largest else 0.0)

    def computing(block: Block, entries: Entries, result: Result) -> Any:
        fold = registers(1, "fold")

        def one(entry: Any, channel: Any) -> Any:
            y, x = entries.at(entry)

            def tap(row: Any, column: Any) -> Any:
                element = load(source, [integer(0), row, column, channel])
                held = load(fold, [0])
                return store(fold, larger(held, element) if pool.largest else held + element, [0])

            value = epilogue.value([integer(0), y, x, channel], load(fold, [0]))
            return allocated([fold], [store(fold, start, [0]), _taps(pool, y, x, tap), result(entry, (y, x), channel, value)])

        return _shared_out(block, entries.count, pool.channels, one)

    arguments = [buffer for buffer in fused.arguments if buffer is not fused.result]
    return Implementation(position_kernel(arguments, what, results, target, computing), _family("pool", what))


def listed_map(arguments: Sequence[Any], blocks: Sequence[Any], what: Listed | None, results: Results, target: Target) -> Implementation:
    """A function whose blocks are all functions of a pixel. Raises NotInlinableError for too many channels or too long an expression."""
    if results.channels > MOST_CHANNELS:
        raise NotInlinableError(f"{results.channels} channels")
    written = {block.buffer: block for block in blocks}

    def computing(block: Block, entries: Entries, result: Result) -> Any:
        def one(entry: Any, channel: Any) -> Any:
            y, x = entries.at(entry)
            return result(entry, (y, x), channel, inlined(arguments[-1], [integer(0), y, x, channel], written, {}))

        return _shared_out(block, entries.count, results.channels, one)

    return Implementation(position_kernel(arguments[:-1], what, results, target, computing), _family("map", what))


class _Sums:
    """The sums of a convolution."""

    def __init__(self, fused: Fused, conv: Convolution, packed: Any) -> None:
        self.conv, self.packed, self.epilogue = conv, packed, fused.epilogue()
        self.together = _TOGETHER if conv.groups == 1 else 1

    def computing(self, block: Block, entries: Entries, result: Result) -> Any:
        groups = (entries.count + (self.together - 1)) // self.together
        return _shared_out(block, groups, self.conv.features, lambda group, channel: self._group(entries, group, channel, result))

    def _group(self, entries: Entries, group: Any, channel: Any, result: Result) -> Any:
        """One channel of some entries; behind the last one it is computed again."""
        from tvm import tirx

        conv, together = self.conv, self.together
        sums = registers(together, "sums")
        tops, lefts, places = (registers(together, name, "int32") for name in ("tops", "lefts", "from_"))
        numbers = [tirx.min(group * together + one, entries.count - 1) if together > 1 else group for one in range(together)]

        def begun(one: int) -> Any:
            y, x = entries.at(numbers[one])
            top = store(tops, y * conv.strides[0] - conv.before[0], [one])
            left = store(lefts, x * conv.strides[1] - conv.before[1], [one])
            return [top, left, store(sums, floats(0.0), [one])]

        def row(tap: Any) -> Any:
            return rolled(conv.window[1], lambda other: self._tap(tap, other, channel, sums, tops, lefts, places))

        def ended(one: int) -> Any:
            y, x = entries.at(numbers[one])
            value = self.epilogue.value([integer(0), y, x, channel], load(sums, [one]))
            return result(numbers[one], (y, x), channel, value)

        statements = [statement for one in range(together) for statement in begun(one)]
        return allocated([sums, tops, lefts, places], [*statements, rolled(conv.window[0], row), *map(ended, range(together))])

    def _tap(self, tap: Any, other: Any, channel: Any, sums: Any, tops: Any, lefts: Any, places: Any) -> Any:
        """All input channels of one tap of the windows; `places`: where each one's pixel begins, or -1 outside of the image."""
        from tvm import tirx

        conv = self.conv
        of_pixel = conv.channels * conv.groups

        def found(one: int) -> Any:
            line, column = load(tops, [one]) + tap * conv.dilation[0], load(lefts, [one]) + other * conv.dilation[1]
            inside = tirx.And(under(line, conv.sizes[0]), under(column, conv.sizes[1]))
            return store(places, tirx.Select(inside, (line * conv.sizes[1] + column) * of_pixel, integer(-1)), [one])

        first = channel // (conv.features // conv.groups) * conv.channels if conv.groups > 1 else integer(0)

        def product(depth: Any) -> Any:
            weight = load(self.packed, [tap, other, depth, channel])

            def add(one: int) -> Any:
                element = load(conv.input, [integer(0), integer(0), integer(0), load(places, [one]) + first + depth])
                value = tirx.if_then_else(load(places, [one]) >= 0, element, floats(0.0))
                return store(sums, load(sums, [one]) + value * weight, [one])

            return every(self.together, add)

        whole = conv.channels // _AT_ONCE
        many = rolled(whole, lambda number: every(_AT_ONCE, lambda one: product(number * _AT_ONCE + one)))
        rest = every(conv.channels % _AT_ONCE, lambda one: product(integer(whole * _AT_ONCE + one)))
        return allocated([], [*(found(one) for one in range(self.together)), many, rest])


def _shared_out(block: Block, entries: Any, channels: int, body: Callable[[Any, Any], Any]) -> Any:
    """Every (entry, channel) by one of a block's threads."""
    items = entries * channels

    def turn(number: Any) -> Any:
        item = number * block.threads + block.thread
        return when(item < items, body(item // channels, item % channels))

    return rolled((items + (block.threads - 1)) // block.threads, turn)


def _taps(pool: Any, y: Any, x: Any, body: Callable[[Any, Any], Any]) -> Any:
    """`body(row, column)` for the taps of a position's window that lie inside of the image."""

    def row(tap: Any) -> Any:
        line = y * pool.strides[0] + tap * pool.dilation[0] - pool.before[0]

        def column(other: Any) -> Any:
            place = x * pool.strides[1] + other * pool.dilation[1] - pool.before[1]
            return when(under(place, pool.sizes[1]), body(line, place))

        return when(under(line, pool.sizes[0]), rolled(pool.window[1], column))

    return rolled(pool.window[0], row)


def _family(name: str, what: Listed | None) -> str:
    return f"positions {name}" if what is None else f"listed {name}"
