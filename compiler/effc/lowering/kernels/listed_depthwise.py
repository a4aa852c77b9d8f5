"""Depthwise convolutions at a list of positions: every channel has a filter of its own, channels fill the vectors.

A vector of channels after the other: its filter stays in registers while the positions of a tile pass. Taps come in the order of the dense
kernel, and those outside of the image are left out as there, so results have the same bits.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from effc.lowering.kernels.code import (
    allocated,
    choose,
    flat_function,
    floats,
    integer,
    load,
    local,
    located,
    loop,
    sequence,
    store,
    vector,
)
from effc.lowering.kernels.conv import Convolution, read
from effc.lowering.kernels.fused import Epilogue, Fused
from effc.lowering.kernels.implementation import Implementation
from effc.lowering.kernels.integer_vectors import vector_load
from effc.lowering.kernels.listed_conv import within
from effc.lowering.kernels.listed_results import Results, propagated
from effc.lowering.kernels.moved import vector_pieces
from effc.lowering.kernels.packing import Packed
from effc.lowering.kernels.pixel_list import AHEAD, TASKS, Listed, Work, ahead, listed
from effc.lowering.kernels.tiles import lanes_of
from effc.targets import Target

__all__ = ["listed_depthwise"]

_ROWS = 16  # positions of a tile
_MOST_TAPS = 25  # filters of more do not stay in registers


def listed_depthwise(fused: Fused, fixed: Sequence[bool], what: Listed, results: Results, target: Target) -> Implementation | None:
    """The kernel, with arguments like those of `listed_convolution`; None for what it does not take."""
    from tvm import tirx

    if fused.kind != "convolution" or str(fused.anchor.buffer.dtype) != "float32":
        return None
    conv = read(fused)
    if conv.groups == 1 or conv.channels != 1 or conv.features != conv.groups or not fixed[conv.weight]:
        return None
    taps = conv.window[0] * conv.window[-1]
    if conv.batch != 1 or len(conv.sizes) != 2 or taps > _MOST_TAPS or fused.argument(conv.input) is None:
        return None
    lanes = lanes_of(target, "float32")
    packed = tirx.decl_buffer((*conv.window, 1, conv.features), "float32", name="packed")
    kernel = _Kernel(fused, conv, packed, results, fused.epilogue(), lanes)
    body = allocated([kernel.sums], [listed(what, kernel.work)])
    arguments = [packed if index == conv.weight else buffer for index, buffer in enumerate(fused.arguments) if buffer is not fused.result]
    arguments += what.arguments(results.state)
    return Implementation(flat_function(arguments, body), "listed depthwise", {conv.weight: Packed((1, 2, 3, 0))})


class _Kernel:
    def __init__(self, fused: Fused, conv: Convolution, packed: Any, results: Results, epilogue: Epilogue, lanes: int) -> None:
        from tvm import tirx

        self.conv, self.packed, self.results, self.epilogue, self.lanes = conv, packed, results, epilogue, lanes
        self.input = fused.arguments[fused.argument(conv.input)]  # type: ignore[index]
        self.sums = tirx.decl_buffer((TASKS, _ROWS * conv.features), "float32", name="sums")

    def work(self, work: Work) -> Any:
        """All entries of a task's list, some at a time."""
        from tvm import tirx

        def tile(number: Any) -> Any:
            first = number * _ROWS
            return self._tile(work, first, tirx.min(integer(_ROWS), work.count - first))

        return loop((work.count + (_ROWS - 1)) // _ROWS, tile, name="tile")

    def _tile(self, work: Work, first: Any, rows: Any) -> Any:
        conv, lanes = self.conv, self.lanes

        def finished(row: Any) -> Any:
            y, x = work.at(first + row)

            def new(channel: int, size: int) -> Any:
                return vector_load(self.sums, [work.task, row * conv.features + channel], size)

            return propagated(self.results, lanes, new, y, x)

        whole = conv.features // lanes

        def fetched(row: Any) -> Any:
            return ahead(work, first + row + _ROWS - AHEAD, self._lines)

        parts = [loop(rows, fetched, name="row")]
        parts += [loop(whole, lambda block: self._filtered(work, first, rows, block * lanes, lanes), name="block")] if whole else []
        parts += [
            self._filtered(work, first, rows, integer(channel), size)
            for channel, size in vector_pieces(conv.features, lanes)
            if size < lanes
        ]
        return sequence([*parts, loop(rows, finished, name="row")])

    def _lines(self, y: Any, x: Any) -> list[tuple[Any, int]]:
        """What the computation of a position reads."""
        conv = self.conv
        top, left = y * conv.strides[0] - conv.before[0], x * conv.strides[1] - conv.before[1]
        size = 4 * conv.window[1] * conv.features
        lines = [(load(self.input, [0, top + tap * conv.dilation[0], left, 0]), size) for tap in range(conv.window[0])]
        return [*lines, (load(self.results.state, [0, y, x, 0]), 4 * conv.features)]

    def _filtered(self, work: Work, first: Any, rows: Any, channel: Any, size: int) -> Any:
        """Some channels of the positions of a tile."""
        from tvm import tirx

        conv = self.conv
        taps = list(itertools.product(range(conv.window[0]), range(conv.window[1])))
        filters = [local(size, f"filter{number}") for number in range(len(taps))]
        total = local(size, "total")

        def loaded(number: int, tap: tuple[int, int]) -> Any:
            return vector(size, lambda lane: store(filters[number], load(self.packed, [*tap, 0, channel + lane]), [lane]))

        def position(row: Any) -> Any:
            y, x = work.at(first + row)
            top, left = y * conv.strides[0] - conv.before[0], x * conv.strides[1] - conv.before[1]
            corner, found = located(load(self.input, [0, top, left, channel]), "corner")

            def stepped(element: Any, weight: Any) -> Any:
                return vector(size, lambda lane: store(total, load(total, [lane]) + element(lane) * weight(lane), [lane]))

            def added(number: int, tap: tuple[int, int]) -> Any:
                place = (tap[0] * conv.dilation[0] * conv.sizes[1] + tap[1] * conv.dilation[1]) * conv.features
                return stepped(lambda lane: load(corner, [place + lane]), lambda lane: load(filters[number], [lane]))

            def guarded(row_tap: Any) -> Any:  # a loop, with filters from memory: few positions lie at an edge
                line = top + row_tap * conv.dilation[0]

                def tap(column_tap: Any) -> Any:
                    column = left + column_tap * conv.dilation[1]
                    inside = tirx.And(column >= 0, column < conv.sizes[1])

                    def element(lane: Any) -> Any:
                        return load(self.input, [0, line, column, channel + lane])

                    def weight(lane: Any) -> Any:
                        return load(self.packed, [row_tap, column_tap, 0, channel + lane])

                    return choose(inside, stepped(element, weight), tirx.Evaluate(integer(0)))

                inside = tirx.And(line >= 0, line < conv.sizes[0])
                return choose(inside, loop(conv.window[1], tap, name="tap"), tirx.Evaluate(integer(0)))

            every = sequence([added(number, tap) for number, tap in enumerate(taps)])
            ends = [
                within(at + tap * conv.dilation[axis], conv, axis, tap)
                for axis, at in enumerate((top, left))
                for tap in (0, conv.window[axis] - 1)
            ]
            conditions = [end for end in ends if end is not True]
            if conditions:
                middle = conditions[0]
                for other in conditions[1:]:
                    middle = tirx.And(middle, other)
                every = choose(middle, every, loop(conv.window[0], guarded, name="tap"))

            def result(lane: Any) -> Any:
                value = self.epilogue.value([integer(0), y, x, channel + lane], load(total, [lane]))
                return store(self.sums, value, [work.task, row * conv.features + channel + lane])

            clear = vector(size, lambda lane: store(total, floats(0.0), [lane]))
            return allocated([total], [*found, clear, every, vector(size, result)])

        return allocated(filters, [*(loaded(number, tap) for number, tap in enumerate(taps)), loop(rows, position, name="row")])
