"""Sums of products of narrow integers in register tiles: the loops that quantised convolutions and matrix products share.

    result[line, position, channel] = sum over taps and a run of neighbours of left[line, position, tap, ...] * right[channel, tap, ...]

Output channels fill the vectors, neighbouring positions share each vector of the right operand. All sums are int32, modulo 2^32, so their
order does not matter. The right operand is laid out in blocks of channels, weights at compile time:

    [group and block][tap and step of the run][channel][neighbours of one step]

and, where the left operand cannot be centred (`Dot.centred`), one more row: the sum of each channel's weights, an int32 in the four bytes
of the channel. With it the zero point z of the left operand goes: sum (x - z) w = sum x w - z sum w.
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
from effc.lowering.kernels.integer_vectors import spread, vector_load, whole, whole_store
from effc.lowering.kernels.packing import Computed
from effc.lowering.kernels.products import pieces
from effc.lowering.kernels.tiles import Tile, ranked, split
from effc.targets import Target

__all__ = ["PARALLEL_MACS", "Layout", "Sums", "kernel", "layout", "packing"]

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
        result: statement that stores a value for (line, position, group, channel of the group).
    """

    lines: int
    width: int
    groups: int
    outputs: int
    taps: tuple[int, ...]
    run: int
    place: Callable[[Any, Any, Sequence[Any], Any], Any]
    result: Callable[[Any, Any, Any, Any, Any], Any]


@dataclass(frozen=True)
class Layout:
    """How a sum is cut up, and where its right operand lies.

    Attributes:
        dot: how products are summed.
        tile: positions and vectors of channels that are summed at once.
        block: channels of a block.
        blocks: blocks of a group.
        steps: of the reduction.
        packed: the buffer of the right operand.
        together: whether the results of a vector are computed and stored at once; else, where the processor has no vectors of floating
            point, one after another.
    """

    dot: Dot
    tile: Tile
    block: int
    blocks: int
    steps: int
    packed: Any
    together: bool


def layout(sums: Sums, dot: Dot, target: Target) -> Layout:
    """The layout of the right operand for the fastest tile."""
    from tvm import tirx

    steps = math.prod(sums.taps) * -(-sums.run // dot.size)
    tiles = ranked(sums.width, sums.outputs, steps, dot.lanes, target.registers // dot.registers)
    tile = next(tile for tile in tiles if not dot.vectors or tile.vectors <= dot.vectors)
    block = tile.vectors * dot.lanes
    blocks = -(-sums.outputs // block)
    packed = tirx.decl_buffer((sums.groups * blocks, steps + (not dot.centred), block * dot.size), dot.right, name="packed")
    return Layout(dot, tile, block, blocks, steps, packed, not target.scalar_floats)


def packing(sums: Sums, layout: Layout) -> Computed:
    """The layout of weights that are stored as `[channel][tap][run]`, in any shape."""
    weights = _Weights(sums.groups, math.prod(sums.taps), sums.run, layout.block, layout.dot)
    return Computed(f"{layout.dot.right} in blocks of {layout.block}", weights)


def kernel(sums: Sums, left: Left, layout: Layout, before: Sequence[tuple[Any, Any]] = ()) -> Any:
    """The statement that computes the sums; `before`: further buffers, and the statements that fill them."""
    statement = _Loops(sums, left, layout).run()
    copies = [*([left.copies] if left.copies is not None else []), *before]
    return allocated([buffer for buffer, _ in copies], [*(filling for _, filling in copies), statement])


@dataclass(frozen=True)
class _Weights:
    """The layout of stored weights."""

    groups: int
    taps: int
    run: int
    block: int
    dot: Dot

    def __call__(self, array: Array) -> Array:
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
    def __init__(self, sums: Sums, left: Left, layout: Layout) -> None:
        self.sums, self.left, self.dot, self.packed, self.steps = sums, left, layout.dot, layout.packed, layout.steps
        self.block, self.blocks, self.together = layout.block, layout.blocks, layout.together
        self.rest = sums.outputs % self.block
        self.runs = split(sums.width, layout.tile.rows)

    def run(self) -> Any:
        sums = self.sums
        blocks = sums.groups * self.blocks
        tiles = sums.lines * sum(count for *_, count in self.runs)
        macs = sums.lines * sums.width * sums.groups * sums.outputs * math.prod(sums.taps) * sums.run
        parts = min(tiles, -(-_TASKS // blocks)) if macs >= PARALLEL_MACS else 1

        def task(number: Any) -> Any:
            block, part = (number, None) if parts == 1 else (number // parts, number % parts)

            def channels(width: int) -> Any:
                return self._block(block, width, part, parts)

            if not self.rest:
                return channels(self.block)
            if self.blocks == 1:
                return channels(self.rest)
            return choose(block % self.blocks == self.blocks - 1, channels(self.rest), channels(self.block))

        share = parallel if macs >= PARALLEL_MACS and blocks * parts > 1 else loop
        return share(blocks * parts, task)

    def _block(self, block: Any, width: int, part: Any, parts: int) -> Any:
        """A part of all positions, for one block of channels."""
        dot = self.dot
        starts = [] if dot.centred else [local(dot.lanes, f"start{at}", "int32") for at in range(0, width, dot.lanes)]
        statements = [whole_store(one, self._start(block, at)) for one, at in zip(starts, range(0, width, dot.lanes), strict=False)]
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
        total = vector_load(self.packed, [block, self.steps, at * dot.size], dot.lanes * dot.size)
        return spread(integer(0) - self.left.zero, dot.lanes) * tirx.reinterpret(f"int32x{dot.lanes}", total)

    def _tile(self, line: Any, position: Any, rows: int, block: Any, width: int, starts: Sequence[Any]) -> Any:
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
                    right = vector_load(self.packed, [block, tap * run + number, at * size], lanes * size)
                    one = held[row][index]
                    statements.append(whole_store(one, dot.add(whole(one), left, right)))
            return sequence(statements)

        def taps(sizes: Sequence[int], outer: tuple[Any, ...], tap: Any) -> Any:
            if not sizes:
                return loop(run, lambda number: step(outer, tap, number), name="step")
            return loop(sizes[0], lambda one: taps(sizes[1:], (*outer, one), tap * sizes[0] + one), name="tap")

        first_sums = [whole(one) for one in starts] or [spread(integer(0), lanes)] * len(vectors)
        clear = [whole_store(one, value) for row in held for one, value in zip(row, first_sums, strict=True)]
        channel = (block % self.blocks) * self.block
        stored, copies = [], []
        for row, ones in enumerate(held):
            for at, one in zip(vectors, ones, strict=True):
                count = min(lanes, width - at)
                if count < lanes or not self.together:  # registers hold whole vectors: what is read in parts is read from a copy
                    part = local(lanes, f"part{row}", "int32")
                    copies.append(part)
                    stored.append(copied(one, part, lanes))
                    one = part

                def lane_result(lane: Any, one: Any = one, at: int = at, row: int = row) -> Any:
                    return sums.result(line, position + row, group, channel + at + lane, load(one, [lane]))

                stored.append(self._results(count, lane_result))
        return allocated([*(one for row in held for one in row), *copies], [*clear, taps(sums.taps, (), integer(0)), *stored])

    def _results(self, count: int, result: Callable[[Any], Any]) -> Any:
        """The statement that stores the results of the first lanes of a vector."""
        if not self.together:
            return loop(count, result, name="lane")

        def piece(first: int, many: int) -> Any:
            return vector(many, lambda lane: result(first + lane))

        return sequence([piece(*one) for one in pieces(count)])
