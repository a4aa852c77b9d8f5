"""Convolutions at a list of positions: what a 2-D convolution (groups 1) computes, where something in its window moved.

The windows of a few positions are gathered in a patch, row by row, with zeros where they stick out over the image. Then a tile is what it
is in the dense kernel: positions times vectors of channels in registers, taps and depth in the same order, so sums have the same bits.
That the positions are no neighbours costs the gathering: one load and store a vector, to as many multiply-adds as there are channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from effc.lowering.kernels.code import allocated, choose, flat_function, floats, integer, load, located, loop, sequence, store, vector
from effc.lowering.kernels.conv import Convolution, choice, read
from effc.lowering.kernels.fused import Epilogue, Fused
from effc.lowering.kernels.implementation import Implementation
from effc.lowering.kernels.integer_vectors import vector_load, vector_store
from effc.lowering.kernels.listed_results import Results, propagated
from effc.lowering.kernels.moved import vector_pieces
from effc.lowering.kernels.packing import Packed
from effc.lowering.kernels.pixel_list import TASKS, Listed, Work, ahead, listed
from effc.lowering.kernels.register_tile import register_tile
from effc.lowering.kernels.tiles import lanes_of
from effc.targets import Target

__all__ = ["listed_convolution", "within"]

_FEW = 8  # sums of the tiles behind the last whole one: fewer would wait for each other
_MOST_ROWS = 24
_PATCH = 96 * 1024  # bytes of the windows that are gathered together: a block of weights serves them all
_MOST_TILES = 8
_WRITTEN_OUT = 8  # vectors of a copy that is no loop


def listed_convolution(fused: Fused, fixed: Sequence[bool], what: Listed, results: Results, target: Target) -> Implementation | None:
    """The kernel `(arguments of the function without its result, masks..., state, moved, active)`; None for what it does not take."""
    from tvm import tirx

    dense = choice(fused, fixed, target)
    if dense is None:
        return None
    conv = read(fused)
    if conv.groups != 1 or conv.batch != 1 or len(conv.sizes) != 2 or fused.argument(conv.input) is None:
        return None
    lanes = lanes_of(target, "float32")
    width = dense.candidates[0].vectors * lanes
    few = max(1, _FEW // (width // lanes))
    rows = max(few, min(_MOST_ROWS, (target.registers - 1) // (width // lanes) - 1))
    blocks = -(-conv.features // width)
    packed = tirx.decl_buffer((blocks, *conv.window, conv.channels, width), "float32", name="packed")
    kernel = _Kernel(fused, conv, packed, results, fused.epilogue(), lanes, width, rows, few)
    body = allocated([kernel.patch, kernel.sums], [listed(what, kernel.work)])
    arguments = [packed if index == conv.weight else buffer for index, buffer in enumerate(fused.arguments) if buffer is not fused.result]
    arguments += what.arguments(results.state)
    packing = Packed((0, 1, 2, 3), ((0, width),))
    return Implementation(
        flat_function(arguments, body), "listed conv", {conv.weight: packing}, f"tiles of {rows} listed positions x {width}"
    )


class _Kernel:
    def __init__(
        self,
        fused: Fused,
        conv: Convolution,
        packed: Any,
        results: Results,
        epilogue: Epilogue,
        lanes: int,
        width: int,
        rows: int,
        few: int,
    ) -> None:
        from tvm import tirx

        self.conv, self.packed, self.results, self.epilogue = conv, packed, results, epilogue
        self.lanes, self.width, self.rows, self.few = lanes, width, rows, few
        self.input = fused.arguments[fused.argument(conv.input)]  # type: ignore[index]
        self.depth = math.prod(conv.window) * conv.channels
        self.group = rows * max(1, min(_MOST_TILES, _PATCH // (rows * self.depth * 4)))
        rest = -(-lanes // self.depth)  # rows that the last vector of a row may reach into
        self.patch = tirx.decl_buffer((TASKS, self.group + few + rest, self.depth), "float32", name="patch")
        self.sums = tirx.decl_buffer((TASKS, self.group + few, conv.features), "float32", name="sums")

    def work(self, work: Work) -> Any:
        """All entries of a task's list, a group of tiles at a time."""
        from tvm import tirx

        def group(number: Any) -> Any:
            first = number * self.group
            return self._group(work, first, tirx.min(integer(self.group), work.count - first))

        return loop((work.count + (self.group - 1)) // self.group, group, name="group")

    def _group(self, work: Work, first: Any, count: Any) -> Any:
        """Gather, multiply, propagate. The last tile computes the last entry several times: what is left of a buffer may be anything."""
        from tvm import tirx

        filled = (count + (self.few - 1)) // self.few * self.few

        def fetched(row: Any) -> Any:
            entry = first + tirx.min(row, count - 1)
            return sequence([ahead(work, entry, self._lines), self._gather(work, row, *work.at(entry))])

        gathered = loop(filled, fetched, name="row")
        whole, rest = count // self.rows, count - count // self.rows * self.rows

        def block(number: Any, width: int) -> Any:
            return sequence(
                [
                    loop(whole, lambda tile: self._product(work, number, tile * self.rows, self.rows, width), name="tile"),
                    loop(
                        (rest + (self.few - 1)) // self.few,
                        lambda tile: self._product(work, number, whole * self.rows + tile * self.few, self.few, width),
                        name="tile",
                    ),
                ]
            )

        full, odd = divmod(self.conv.features, self.width)
        products = [loop(full, lambda number: block(number, self.width), name="block")] if full else []
        products += [block(integer(full), odd)] if odd else []
        return sequence([gathered, *products, loop(count, lambda row: self._finished(work, row, *work.at(first + row)), name="row")])

    def _product(self, work: Work, block: Any, first: Any, rows: int, width: int) -> Any:
        start = block * self.width

        def left(row: int, depth: Any) -> Any:
            return load(self.patch, [work.task, first + row, depth])

        def right(depth: Any, lane: Any) -> Any:
            return load(self.packed, [block, 0, 0, depth, lane])  # taps and channels follow each other

        def result(row: int, channel: Any, value: Any) -> Any:
            return store(self.sums, value, [work.task, first + row, start + channel])

        return register_tile(rows, width, self.depth, self.lanes, left, right, result)

    def _finished(self, work: Work, row: Any, y: Any, x: Any) -> Any:
        channels = self.conv.features

        def result(first: int, size: int) -> Any:
            def lane_value(lane: Any) -> Any:
                place = [work.task, row, first + lane]
                return store(self.sums, self.epilogue.value([integer(0), y, x, first + lane], load(self.sums, place)), place)

            return vector(size, lane_value)

        def new(first: int, size: int) -> Any:
            return vector_load(self.sums, [work.task, row, integer(first)], size)

        values = [result(first, size) for first, size in vector_pieces(channels, self.lanes)]
        return sequence([*values, propagated(self.results, self.lanes, new, y, x)])

    def _lines(self, y: Any, x: Any) -> list[tuple[Any, int]]:
        """What the computation of a position reads."""
        conv = self.conv
        top, left = y * conv.strides[0] - conv.before[0], x * conv.strides[1] - conv.before[1]
        size = 4 * conv.window[1] * conv.channels
        lines = [(load(self.input, [0, top + tap * conv.dilation[0], left, 0]), size) for tap in range(conv.window[0])]
        return [*lines, (load(self.results.state, [0, y, x, 0]), 4 * conv.features)]

    # ---- gathering -----------------------------------------------------------------------------------------------------------

    def _gather(self, work: Work, row: Any, y: Any, x: Any) -> Any:
        """Copy the window of a position into the patch."""
        from tvm import tirx

        conv = self.conv
        taps, channels = conv.window[1], conv.channels
        top, left = y * conv.strides[0] - conv.before[0], x * conv.strides[1] - conv.before[1]
        runs = conv.dilation[1] == 1 or taps == 1  # the pixels of a row of the window follow each other

        def copied(line: Any, column: Any, to: int, count: int) -> Any:
            """`count` elements from a pixel on: behind its last channel stands the first of the next."""

            def piece(at: int, size: int) -> Any:
                value = vector_load(self.input, [0, line, column, integer(at)], size)
                return vector_store(self.patch, value, [work.task, row, integer(to + at)], size)

            whole, pieces_ = count // self.lanes, vector_pieces(count, self.lanes)
            if whole <= _WRITTEN_OUT:
                return sequence([piece(at, size) for at, size in pieces_])

            def part(number: Any) -> Any:
                at = number * self.lanes
                value = vector_load(self.input, [0, line, column, at], self.lanes)
                return vector_store(self.patch, value, [work.task, row, to + at], self.lanes)

            return sequence([loop(whole, part, name="part"), *(piece(at, size) for at, size in pieces_ if size < self.lanes)])

        def zeros(to: int, count: int) -> Any:
            return loop(count, lambda at: store(self.patch, floats(0.0), [work.task, row, to + at]), name="zero")

        corner, found = located(load(self.input, [0, top, left, 0]), "corner")

        def taken(start: int, to: int, count: int) -> Any:
            """`count` elements at a distance from the window's first: whole vectors, over what is written next."""
            whole = -(-count // self.lanes)

            def part(number: Any) -> Any:
                at = number * self.lanes
                value = vector_load(corner, [start + at], self.lanes)
                return vector_store(self.patch, value, [work.task, row, to + at], self.lanes)

            if whole <= _WRITTEN_OUT:
                return sequence([part(integer(number)) for number in range(whole)])
            return loop(whole, part, name="part")

        def inside_row(tap: int) -> Any:
            start, to = tap * conv.dilation[0] * conv.sizes[1] * channels, tap * taps * channels
            if runs:
                return taken(start, to, taps * channels)
            step = conv.dilation[1] * channels
            return sequence([taken(start + column * step, to + column * channels, channels) for column in range(taps)])

        def any_row(tap: int) -> Any:
            line = top + tap * conv.dilation[0]
            to = tap * taps * channels

            def single(column: int) -> Any:
                at, place = left + column * conv.dilation[1], to + column * channels
                return choose(within(at, conv, 1, column), copied(line, at, place, channels), zeros(place, channels))

            each = sequence([single(column) for column in range(taps)])
            return choose(within(line, conv, 0, tap), each, zeros(to, taps * channels))

        ends = [
            within(at + tap * conv.dilation[axis], conv, axis, tap)
            for axis, at in enumerate((top, left))
            for tap in dict.fromkeys((0, conv.window[axis] - 1))
        ]
        middle: Any = True
        for end in ends:
            if end is not True:
                middle = end if middle is True else tirx.And(middle, end)
        every = range(conv.window[0])
        return sequence([*found, choose(middle, sequence([inside_row(tap) for tap in every]), sequence([any_row(tap) for tap in every]))])


def within(place: Any, conv: Convolution, axis: int, tap: int) -> Any:
    """Whether a tap lies inside the image; True where it always does."""
    from tvm import tirx

    last = (conv.positions[axis] - 1) * conv.strides[axis] - conv.before[axis] + tap * conv.dilation[axis]
    low = tap * conv.dilation[axis] >= conv.before[axis]
    high = last < conv.sizes[axis]
    if low and high:
        return True
    if low:
        return place < conv.sizes[axis]
    if high:
        return place >= 0
    return tirx.And(place >= 0, place < conv.sizes[axis])
