"""Sums of products of narrow integers in register tiles: the loops that quantised convolutions and matrix products share.

    result[line, position, channel] = sum over taps and a run of neighbours of left[line, position, tap, ...] * weight[channel, tap, ...]

Output channels fill the vectors, neighbouring positions share each vector of weights. All sums are int32, modulo 2^32, so their order
does not matter. Weights are laid out at compile time, in blocks of channels:

    [group and block][tap and step of the run][channel][neighbours of one step]

and, for operands that cannot be centred (`Dot.centred`), one more row: the sum of each channel's weights, an int32 in the four bytes of
the channel. With it the zero point z of the left operand goes: sum (x - z) w = sum x w - z sum w.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from effc.lowering.kernels.code import allocated, choose, copied, integer, load, local, loop, parallel, sequence, vector
from effc.lowering.kernels.integer_dots import Dot
from effc.lowering.kernels.integer_left import Left
from effc.lowering.kernels.packing import Computed
from effc.lowering.kernels.products import pieces
from effc.lowering.kernels.tiles import Tile, split
from effc.lowering.kernels.tiles import choose as choose_tile
from effc.targets import Target

__all__ = ["PARALLEL_MACS", "Sums", "kernel"]

PARALLEL_MACS = 1 << 20  # below it, starting threads costs more than it saves
_TASKS = 16  # enough for a few threads to share evenly
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Sums:
    """What is summed, and how the left operand is found and results are stored.

    Attributes:
        lines, width: positions of the output.
        groups, outputs: groups, and output channels of each.
        taps: sizes of the window's axes whose taps do not lie side by side.
        run: elements that lie side by side, in both operands.
        place: number of the left operand's first element for (line, position, taps, group).
        result: statement that stores a value for (line, position, channel over all groups).
    """

    lines: int
    width: int
    groups: int
    outputs: int
    taps: tuple[int, ...]
    run: int
    place: Callable[[Any, Any, Sequence[Any], Any], Any]
    result: Callable[[Any, Any, Any, Any], Any]


def kernel(sums: Sums, left: Left, dot: Dot, target: Target) -> tuple[Any, Any, Computed]:
    """(statement, buffer of the packed weights, their packing from `[channel][tap][run]`)."""
    from tvm import tirx

    steps = math.prod(sums.taps) * -(-sums.run // dot.size)
    tile = choose_tile(sums.width, sums.outputs, steps, dot.lanes, target.registers)
    block = tile.vectors * dot.lanes
    blocks = sums.groups * -(-sums.outputs // block)
    packed = tirx.decl_buffer((blocks, steps + (not dot.centred), block * dot.size), dot.right, name="packed")
    packing = _Weights(sums.groups, math.prod(sums.taps), sums.run, block, dot)
    return _Loops(sums, left, dot, tile, packed, steps).run(), packed, Computed(f"{dot.right} in blocks of {block}", packing)


@dataclass(frozen=True)
class _Weights:
    """The layout of stored weights."""

    groups: int
    taps: int
    run: int
    block: int
    dot: Dot

    def __call__(self, array: Array) -> Array:
        """Pack `[channel][tap][run]`, given in any shape."""
        size = self.dot.size
        weights = array.reshape(self.groups, -1, self.taps, self.run)
        ends = (-weights.shape[1] % self.block, -self.run % size)
        weights = np.pad(weights, [(0, 0), (0, ends[0]), (0, 0), (0, ends[1])])
        blocks = weights.shape[1] // self.block
        cut = weights.reshape(self.groups, blocks, self.block, self.taps, -1, size).transpose(0, 1, 3, 4, 2, 5)
        rows = cut.reshape(self.groups * blocks, -1, self.block * size).astype(self.dot.right)
        if self.dot.centred:
            return rows
        sums = weights.reshape(self.groups * blocks, self.block, -1).sum(axis=2, dtype=np.int32)
        return np.concatenate([rows, np.ascontiguousarray(sums).view(np.int8)[:, None]], axis=1)


class _Loops:
    def __init__(self, sums: Sums, left: Left, dot: Dot, tile: Tile, packed: Any, steps: int) -> None:
        self.sums, self.left, self.dot, self.packed, self.steps = sums, left, dot, packed, steps
        self.block = tile.vectors * dot.lanes
        self.blocks = -(-sums.outputs // self.block)  # of a group
        self.rest = sums.outputs % self.block
        self.runs = split(sums.width, tile.rows)

    def run(self) -> Any:
        sums = self.sums
        blocks = sums.groups * self.blocks
        tiles = sums.lines * sum(count for *_, count in self.runs)
        macs = sums.lines * sums.width * sums.groups * sums.outputs * math.prod(sums.taps) * sums.run
        parts = min(tiles, -(-_TASKS // blocks)) if macs >= PARALLEL_MACS else 1

        def task(number: Any) -> Any:
            block, part = (number, None) if parts == 1 else (number // parts, number % parts)

            def whole(width: int) -> Any:
                return self._block(block, width, part, parts)

            if not self.rest:
                return whole(self.block)
            if self.blocks == 1:
                return whole(self.rest)
            return choose(block % self.blocks == self.blocks - 1, whole(self.rest), whole(self.block))

        spread = parallel if macs >= PARALLEL_MACS and blocks * parts > 1 else loop
        statement = spread(blocks * parts, task)
        if self.left.copies is None:
            return statement
        buffer, filling = self.left.copies
        return allocated([buffer], [filling, statement])

    def _block(self, block: Any, width: int, part: Any, parts: int) -> Any:
        """A part of all positions, for one block of channels."""
        dot = self.dot
        starts = [] if dot.centred else [local(dot.lanes, f"start{at}", "int32") for at in range(0, width, dot.lanes)]
        statements = [_whole_store(one, self._start(block, at)) for one, at in zip(starts, range(0, width, dot.lanes), strict=False)]
        for start, rows, tiles in self.runs:
            total = self.sums.lines * tiles
            first, count = (0, total) if part is None else (part * total // parts, (part + 1) * total // parts - part * total // parts)

            def one(number: Any, start: int = start, rows: int = rows, tiles: int = tiles) -> Any:
                line, tile = (number, 0) if tiles == 1 else (number // tiles, number % tiles)
                return self._tile(line, start + tile * rows, rows, block, width, starts)

            statements.append(loop(count, one, start=first, name="tile"))
        return allocated(starts, statements)

    def _start(self, block: Any, at: int) -> Any:
        """What the zero point of the left operand takes off the sums of a vector of channels."""
        from tvm import tirx

        dot = self.dot
        total = tirx.BufferLoad(self.packed, [block, integer(self.steps), tirx.Ramp(integer(at * dot.size), 1, dot.lanes * dot.size)])
        total = tirx.reinterpret(f"int32x{dot.lanes}", total)
        return tirx.Broadcast(integer(0), dot.lanes) - tirx.Broadcast(self.left.zero, dot.lanes) * total

    def _tile(self, line: Any, position: Any, rows: int, block: Any, width: int, starts: Sequence[Any]) -> Any:
        from tvm import tirx

        sums, dot = self.sums, self.dot
        lanes, size = dot.lanes, dot.size
        vectors = range(0, width, lanes)
        held = [[local(lanes, f"sum{row}_{at}", "int32") for at in vectors] for row in range(rows)]
        group = block // self.blocks if sums.groups > 1 else integer(0)
        run = -(-sums.run // size)

        def step(taps: Sequence[Any], tap: Any, number: Any) -> Any:
            statements = []
            for row in range(rows):
                left = self.left.load(sums.place(line, position + row, taps, group) + number * size)
                for index, at in enumerate(vectors):
                    lane = at * size if lanes * size == 1 else tirx.Ramp(integer(at * size), 1, lanes * size)
                    right = load(self.packed, [block, tap * run + number, lane])
                    one = held[row][index]
                    statements.append(_whole_store(one, dot.add(_whole(one), left, right)))
            return sequence(statements)

        def taps(sizes: Sequence[int], outer: tuple[Any, ...], tap: Any) -> Any:
            if not sizes:
                return loop(run, lambda number: step(outer, tap, number), name="step")
            return loop(sizes[0], lambda one: taps(sizes[1:], (*outer, one), tap * sizes[0] + one), name="tap")

        clear = [_whole_store(one, _whole(starts[index]) if starts else _spread(0, lanes)) for row in held for index, one in enumerate(row)]
        channel = (group * sums.outputs if sums.groups > 1 else integer(0)) + (block % self.blocks) * self.block
        stored, copies = [], []
        for row, ones in enumerate(held):
            for at, one in zip(vectors, ones, strict=True):
                count = min(lanes, width - at)
                if count < lanes:  # registers hold whole vectors: the part that counts is read from a copy
                    part = local(lanes, f"part{row}", "int32")
                    copies.append(part)
                    stored.append(copied(one, part, lanes))
                    one = part
                for first, many in pieces(count):

                    def lane_result(lane: Any, one: Any = one, at: int = first, place: int = at + first, row: int = row) -> Any:
                        return sums.result(line, position + row, channel + place + lane, load(one, [at + lane]))

                    stored.append(vector(many, lane_result))
        return allocated([*(one for row in held for one in row), *copies], [*clear, taps(sums.taps, (), integer(0)), *stored])


def _spread(value: int, lanes: int) -> Any:
    from tvm import tirx

    return integer(value) if lanes == 1 else tirx.Broadcast(integer(value), lanes)


def _whole(buffer: Any) -> Any:
    """All elements of a local buffer."""
    from tvm import tirx

    lanes = int(buffer.shape[0])
    return load(buffer, [integer(0) if lanes == 1 else tirx.Ramp(integer(0), 1, lanes)])


def _whole_store(buffer: Any, value: Any) -> Any:
    from tvm import tirx

    lanes = int(buffer.shape[0])
    return tirx.BufferStore(buffer, value, [integer(0) if lanes == 1 else tirx.Ramp(integer(0), 1, lanes)])
