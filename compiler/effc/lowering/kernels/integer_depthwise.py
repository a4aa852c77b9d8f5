"""Quantised depthwise convolutions over channels-last images: one filter a channel, channels in vectors.

Bytes and their weights are multiplied and summed as float32, which is exact here: every partial sum is a whole number that float32 holds
as long as the window has at most 2^24 / (255 * largest weight) taps. Fused multiply-adds of floating point are the one multiplication that
every processor does at full speed in lanes of 32 bits.

    sum (x - z) w = -z sum w + sum x w        padding holds z; the first term is where the sums begin

RISC-V and Hexagon multiply and add lanes of int32 as well, so there they are summed as such. Where vectors hold no floating point (Hexagon
v67), results are computed and stored one after another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from effc.lowering.kernels.code import allocated, choose, copied, flat_function, integer, load, local, loop, parallel, sequence, vector
from effc.lowering.kernels.fused import Fused
from effc.lowering.kernels.implementation import Implementation
from effc.lowering.kernels.integer_left import with_padding
from effc.lowering.kernels.integer_vectors import cast, centred_bytes, only, places, spread, vector_load, whole, whole_store
from effc.lowering.kernels.packing import Packed
from effc.lowering.kernels.products import pieces
from effc.lowering.kernels.tiles import split
from effc.targets import Target

__all__ = ["depthwise"]

_LARGEST = {"int8": 128, "int16": 255}  # of centred weights
_EXACT = 1 << 24  # float32 holds every whole number up to it
_MOST_TAPS = 64  # the weights of a vector of channels are kept at hand
_ROWS = 8  # positions that share each weight
_PARALLEL_MACS = 1 << 18  # below it, starting threads costs more than it saves
_TASKS = 16


def depthwise(fused: Fused, fixed: Sequence[bool], target: Target) -> Implementation | None:
    """The convolution of a function whose groups have one channel each; None for another."""
    from tvm import tirx

    if fused.kind != "integer_convolution":
        return None
    source, weights = fused.reads()
    argument = fused.argument(weights)
    if argument is None or not fixed[argument]:
        return None
    x, zero = centred_bytes(fused, source)
    channels = int(x.shape[-1])
    features, *window, depth = (int(size) for size in weights.shape)
    taps = math.prod(window)
    exact = taps * 255 * _LARGEST.get(str(weights.dtype), _EXACT) <= _EXACT
    if depth != 1 or features != channels or fused.number("groups") != channels or not exact or taps > _MOST_TAPS:
        return None
    lanes = max(1, target.int32_lanes)
    packed = tirx.decl_buffer((-(-channels // lanes), *window, 1, lanes), str(weights.dtype), name="packed")
    body = _Depthwise(fused, x, zero, packed, window, lanes, target).run()
    arguments = [packed if index == argument else buffer for index, buffer in enumerate(fused.arguments)]
    packing = Packed(tuple(range(len(window) + 2)), ((0, lanes),))
    return Implementation(flat_function(arguments, body), "integer_depthwise", {argument: packing})


class _Depthwise:
    def __init__(self, fused: Fused, x: Any, zero: Any, packed: Any, window: Sequence[int], lanes: int, target: Target) -> None:
        self.zero, self.packed, self.window, self.lanes = zero, packed, window, lanes
        self.sizes = tuple(int(size) for size in x.shape)
        self.channels = self.sizes[-1]
        self.positions = fused.anchor.extents[1 : len(self.sizes) - 1]
        self.strides, self.dilation = fused.numbers("strides"), fused.numbers("dilation")
        self.epilogue = fused.epilogue()
        before, after = fused.numbers("before"), fused.numbers("after")
        self.source, self.filling = x, None
        if any((*before, *after)):
            point = only(zero)
            self.source, self.sizes, self.filling = with_padding(x, lambda value: value, point, before, after, str(x.dtype), 4 * lanes)
        self.together = not target.scalar_floats
        self.kind = "int32" if "vmacc" in target.dots or target.scalar_floats else "float32"
        taps = math.prod(window)
        rows = max(2, min(_ROWS, target.registers - (taps if taps < target.registers - 4 else 0) - 4))
        self.runs = split(self.positions[-1], rows)

    def run(self) -> Any:
        lines = self.sizes[0] * math.prod(self.positions[:-1])
        full, rest = divmod(self.channels, self.lanes)
        ends = pieces(rest)
        units = full + len(ends)
        macs = lines * self.positions[-1] * self.channels * math.prod(self.window)
        parts = min(lines, -(-_TASKS // units)) if macs >= _PARALLEL_MACS else 1

        def task(number: Any) -> Any:
            unit = number // parts
            part = number % parts
            first, end = part * lines // parts, (part + 1) * lines // parts

            def channels_of(block: Any, at: int, width: int) -> Any:
                return self._channels(block, at, width, lambda body: loop(end - first, body, start=first, name="line"))

            statement = channels_of(unit, 0, self.lanes) if full else None
            for index, (at, width) in enumerate(ends):
                own = channels_of(integer(full), at, width)
                statement = own if statement is None else choose(unit == full + index, own, statement)
            return statement

        share = parallel if macs >= _PARALLEL_MACS and units * parts > 1 else loop
        statement = share(units * parts, task)
        return statement if self.filling is None else allocated([self.source], [self.filling, statement])

    def _channels(self, block: Any, at: int, width: int, lines: Callable[[Callable[[Any], Any]], Any]) -> Any:
        """All positions of some lines, for the channels of one vector."""
        from tvm import tirx

        taps = math.prod(self.window)
        weights = [local(width, f"weight{tap}", self.kind) for tap in range(taps)]
        start = local(width, "start", self.kind)
        statements, total = [], spread(tirx.const(0, self.kind), width)
        for tap, one in enumerate(weights):
            value = vector_load(self.packed, [block, *places(integer(tap), self.window), 0, at], width)
            statements.append(whole_store(one, cast(value, self.kind, width)))
            total = total + whole(one)
        point = tirx.Cast(self.kind, only(self.zero))
        statements.append(whole_store(start, spread(tirx.const(0, self.kind) - point, width) * total))
        channel = block * self.lanes + at

        def tiles_of(line: Any, first: int, rows: int, tiles: int) -> Any:
            return loop(tiles, lambda tile: self._tile(line, first + tile * rows, rows, channel, width, weights, start), name="tile")

        return allocated([*weights, start], [*statements, lines(lambda line: sequence([tiles_of(line, *run) for run in self.runs]))])

    def _tile(self, line: Any, position: Any, rows: int, channel: Any, width: int, weights: Sequence[Any], start: Any) -> Any:
        from tvm import tirx

        sums = [local(width, f"sum{row}", self.kind) for row in range(rows)]
        image, *outer = places(line, [self.sizes[0], *self.positions[:-1]])
        stride, step, taps = self.strides[-1], self.dilation[-1], self.window[-1]
        statements = [whole_store(one, whole(start)) for one in sums]
        columns = sorted({row * stride + tap * step for row in range(rows) for tap in range(taps)})
        values = []
        for number in range(math.prod(self.window[:-1])):
            at = places(number, self.window[:-1])
            place = image
            for axis, row in enumerate(outer):
                place = place * self.sizes[axis + 1] + (row * self.strides[axis] + at[axis] * self.dilation[axis])
            place = place * self.sizes[-2] + position * stride
            for column in columns:
                value = local(width, f"value{number}_{column}", self.kind)
                values.append(value)
                statements.append(whole_store(value, cast(self._load((place + column) * self.channels + channel, width), self.kind, width)))
                for row in range(rows):
                    tap, off = divmod(column - row * stride, step)
                    if off == 0 and 0 <= tap < taps:
                        weight = weights[number * taps + tap]
                        statements.append(whole_store(sums[row], whole(sums[row]) + whole(value) * whole(weight)))
        parts = []
        for row, one in enumerate(sums):
            if not self.together:  # registers are not read at places that a loop knows
                parts.append(local(width, f"part{row}", self.kind))
                statements.append(copied(one, parts[-1], width))
                one = parts[-1]

            def lane_result(lane: Any, one: Any = one, row: int = row) -> Any:
                total = tirx.Cast("int32", load(one, [lane]))
                return self.epilogue.store([image, *outer, position + row, channel + lane], total)

            statements.append(vector(width, lane_result) if self.together else loop(width, lane_result, name="lane"))
        return allocated([*sums, *values, *parts], statements)

    def _load(self, place: Any, width: int) -> Any:
        return vector_load(self.source, [*[integer(0)] * (len(self.source.shape) - 1), place], width)
