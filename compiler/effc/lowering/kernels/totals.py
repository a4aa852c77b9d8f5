"""Sums over some axes, but not the last one: means of images with channels last, sums of columns.

The last axis fills the vectors; several sums of each vector are under way, because an addition takes longer than the next one needs to
begin. Where the results are too few to occupy the threads, parts of the first axis are summed apart, and then their sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from effc.lowering.kernels.code import (
    allocated,
    choose,
    flat_function,
    floats,
    integer,
    load,
    local,
    loop,
    parallel,
    sequence,
    store,
    vector,
)
from effc.lowering.kernels.fused import Fused
from effc.lowering.kernels.implementation import Implementation
from effc.lowering.kernels.products import pieces
from effc.lowering.kernels.tiles import lanes_of
from effc.targets import Target

__all__ = ["total"]

PARALLEL_ELEMENTS = 1 << 17  # below it, starting threads costs more than they save
_PART_ELEMENTS = 1 << 14  # the least that is worth a sum of its own
_TASKS = 8
_VECTORS = 4  # that are read together
_SUMS = 8  # under way at a time

Element = Callable[[Sequence[Any], Any], Any]  # for (places on the summed axes, channel)
Store = Callable[[Any, Any], Any]  # for (channel, value)


def total(fused: Fused, fixed: Sequence[bool], target: Target) -> Implementation | None:
    """The sum of a function over axes of a float32 tensor; None where it is another."""
    if fused.kind != "total" or str(fused.anchor.buffer.dtype) != "float32":
        return None
    return Implementation(flat_function(fused.arguments, _Total(fused, target).statement()), "total")


class _Total:
    def __init__(self, fused: Fused, target: Target) -> None:
        self.fused, self.epilogue = fused, fused.epilogue()
        (self.source,) = fused.reads()
        *outer, self.channels = (int(size) for size in self.source.shape)
        self.axes = fused.numbers("axes")
        self.kept = [axis for axis in range(len(outer)) if axis not in self.axes]
        self.keep_axes = len(fused.anchor.buffer.shape) == len(self.source.shape)
        self.sizes = [outer[axis] for axis in self.axes]
        self.outer = [outer[axis] for axis in self.kept]
        self.lanes = lanes_of(target, "float32")
        self.block = min(_VECTORS, -(-self.channels // self.lanes)) * self.lanes
        self.blocks = -(-self.channels // self.block)

    def statement(self) -> Any:
        from tvm import tirx

        lines, elements = math.prod(self.outer), math.prod(self.outer) * math.prod(self.sizes) * self.channels
        spread = parallel if elements >= PARALLEL_ELEMENTS else loop
        parts = 1
        if lines * self.blocks < _TASKS:
            parts = max(1, min(self.sizes[0], _TASKS // (lines * self.blocks), elements // _PART_ELEMENTS))
        each = -(-self.sizes[0] // parts)
        parts = -(-self.sizes[0] // each)
        partial = tirx.decl_buffer((lines, parts, self.channels), "float32", name="partial")

        def results(number: Any) -> Any:
            """One block of results of one line."""
            line, block = number // self.blocks, number % self.blocks
            if parts == 1:
                return self._sums(block, [(0, size) for size in self.sizes], self._element(line), self._result(line))
            return self._sums(block, [(0, parts)], lambda place, channel: load(partial, [line, *place, channel]), self._result(line))

        def part_sums(number: Any) -> Any:
            line, part, block = number // (parts * self.blocks), number // self.blocks % parts, number % self.blocks
            count = each if self.sizes[0] % each == 0 else tirx.min(integer(each), self.sizes[0] - part * each)
            ranges = [(part * each, count), *((0, size) for size in self.sizes[1:])]
            return self._sums(block, ranges, self._element(line), lambda channel, value: store(partial, value, [line, part, channel]))

        tasks = lines * self.blocks
        if parts == 1:
            return (spread if tasks > 1 else loop)(tasks, results)
        return allocated([partial], [spread(tasks * parts, part_sums), loop(tasks, results)])

    def _element(self, line: Any) -> Element:
        def element(places: Sequence[Any], channel: Any) -> Any:
            own = dict(zip(self.axes, places, strict=True)) | dict(zip(self.kept, self._places(line), strict=True))
            return self.fused.value(self.source, [*(own[axis] for axis in sorted(own)), channel])

        return element

    def _result(self, line: Any) -> Store:
        def stored(channel: Any, value: Any) -> Any:
            places = self._places(line)
            if self.keep_axes:
                own = dict(zip(self.kept, places, strict=True))
                places = [own.get(axis, integer(0)) for axis in range(len(self.source.shape) - 1)]
            return self.epilogue.store([*places, channel], value)

        return stored

    def _places(self, line: Any) -> list[Any]:
        found = []
        for size in reversed(self.outer):
            found.append(line % size)
            line = line // size
        return list(reversed(found))

    def _sums(self, block: Any, ranges: Sequence[tuple[Any, Any]], element: Element, result: Store) -> Any:
        """The sums over ranges (start, extent) for one block of channels."""

        def of_width(width: int) -> Any:
            whole = width // self.lanes * self.lanes
            vectors = [(first, self.lanes) for first in range(0, whole, self.lanes)]
            vectors += [(whole + first, size) for first, size in pieces(width - whole)]
            return _sums(block * self.block, vectors, ranges, element, result)

        rest = self.channels % self.block
        if rest and self.blocks > 1:
            return choose(block == self.blocks - 1, of_width(rest), of_width(self.block))
        return of_width(rest or self.block)


def _sums(channel: Any, vectors: Sequence[tuple[int, int]], ranges: Sequence[tuple[Any, Any]], element: Element, result: Store) -> Any:
    """Sums over ranges (start, extent) for vectors of channels, each (first channel, lanes) counted from `channel`."""
    side = max(1, _SUMS // len(vectors))  # sums of one vector that are under way
    if isinstance(ranges[-1][1], int):
        side = min(side, ranges[-1][1])
    sums = [{first: local(width, f"sum{number}_{first}") for first, width in vectors} for number in range(side)]

    def each(number: int, value: Callable[[Any, int], Any]) -> Any:
        """Every vector's sum of a number gets the value for (lane, first channel)."""

        def one(first: int, width: int) -> Any:
            return vector(width, lambda lane: store(sums[number][first], value(lane, first), [lane]))

        return sequence([one(first, width) for first, width in vectors])

    def added(number: int, places: Sequence[Any]) -> Any:
        return each(number, lambda lane, first: load(sums[number][first], [lane]) + element(places, channel + first + lane))

    def over(axes: Sequence[tuple[Any, Any]], places: tuple[Any, ...]) -> Any:
        (start, extent), *inner = axes
        if inner:
            return loop(extent, lambda place: over(inner, (*places, place)), start=start, name="place")

        def group(first: Any) -> Any:
            return sequence([added(number, (*places, start + first * side + number)) for number in range(side)])

        groups = extent // side
        if side == 1 or (isinstance(extent, int) and extent % side == 0):
            return loop(groups, group, name="group")
        rest = loop(extent % side, lambda place: added(0, (*places, start + groups * side + place)), name="place")
        return sequence([loop(groups, group, name="group"), rest])

    def finished(first: int, width: int) -> Any:
        def joined(lane: Any) -> Any:
            value = load(sums[0][first], [lane])
            for others in sums[1:]:
                value = value + load(others[first], [lane])
            return result(channel + first + lane, value)

        return vector(width, joined)

    clear = [each(number, lambda lane, first: floats(0.0)) for number in range(side)]
    stored = [finished(first, width) for first, width in vectors]
    return allocated([buffer for group in sums for buffer in group.values()], [*clear, over(ranges, ()), *stored])
