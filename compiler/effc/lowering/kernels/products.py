"""Sums of products in register tiles: the loops that convolutions and matrix products share.

    result[line, position, channel] = sum over taps and depth of left[line, position, tap, depth] * right[channel, tap, depth]

`position` runs along one axis of the output (a row of an image, the rows of a matrix), a line is everything else. The right operand is
read in blocks of channels that lie side by side, whole vectors at a time: what lies behind the last channel is read, but not stored. A
tile of sums stays in registers while the taps and the depth run.

Windows that stick out over the edge of the input: outer taps (rows of the window) that lie outside are left out of the loop; of the
inner taps, the tiles at both ends of a line know at compile time which of their positions each tap reaches. So nothing is padded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from effc.lowering.kernels.code import (
    allocated,
    choose,
    copied,
    floats,
    integer,
    load,
    local,
    loop,
    parallel,
    prefetch,
    sequence,
    store,
    vector,
)
from effc.lowering.kernels.tiles import Tile, lines_per_task, split
from effc.targets import Target

__all__ = ["PARALLEL_MACS", "Product", "loops", "pieces", "serial_loops", "vectors"]

PARALLEL_MACS = 1 << 18  # below it, starting threads costs more than they save
_FEW_TASKS = 8
_PERIOD = 8  # steps between two requests for cache lines of the next block
_CACHE_LINE = 64  # bytes
_WRITTEN_OUT = 4  # steps that are no loop: a loop of so few would cost as much as they do


@dataclass(frozen=True)
class Product:
    """What is summed, and how its operands are read and its results stored.

    Attributes:
        lines, width: positions of the output.
        groups, outputs: groups, and output channels of each.
        depth: input channels of each group.
        outer: for a line, the loops over the window's outer axes as (first tap, number of taps), expressions or numbers.
        outer_taps: number of taps of each outer axis.
        taps: taps of the window along the line.
        reaches: whether a tap of a position lies inside the input; both are numbers.
        left: element for (line, position, outer taps, tap, group, depth).
        right: element for (line, block, outer taps, tap, depth, lane of the block).
        result: statement that stores a value for (line, position, channel over all groups).
        line_bytes: bytes of input that one more line reads.
        ahead: for a block and a number, an element of the cache line with that number behind the end of the block: where the next block's
            weights lie. They come from far away, and one line at a time, between the steps of this block, they come for nothing.
        initial: what the sums of (line, position, channel) start with; None: with 0.
        contiguous: whether both operands go on to the next tap where the depth ends, so that both are one loop.
    """

    lines: int
    width: int
    groups: int
    outputs: int
    depth: int
    outer: Callable[[Any], list[tuple[Any, Any]]]
    outer_taps: tuple[int, ...]
    taps: int
    reaches: Callable[[int, int], bool]
    left: Callable[[Any, Any, Sequence[Any], Any, Any, Any], Any]
    right: Callable[[Any, Any, Sequence[Any], Any, Any, Any], Any]
    result: Callable[[Any, Any, Any, Any], Any]
    line_bytes: int
    contiguous: bool = False
    ahead: Callable[[Any, Any], Any] | None = None
    initial: Callable[[Any, Any, Any], Any] | None = None

    @property
    def steps(self) -> int:
        return math.prod(self.outer_taps) * self.taps * self.depth

    @property
    def macs(self) -> int:
        return self.lines * self.width * self.groups * self.outputs * self.steps


def loops(product: Product, tile: Tile, lanes: int, target: Target) -> Any:
    """The statement that computes the product, with blocks of `tile.vectors * lanes` channels."""
    return _Emitter(product, tile, lanes, target).run()


def serial_loops(product: Product, tile: Tile, lanes: int, target: Target) -> Any:
    """The same without threads, block by block: the body of a loop that is shared out itself."""
    return _Emitter(product, tile, lanes, target).alone()


class _Emitter:
    def __init__(self, product: Product, tile: Tile, lanes: int, target: Target) -> None:
        self.product, self.lanes, self.target = product, lanes, target
        self.block = tile.vectors * lanes
        self.blocks = -(-product.outputs // self.block)  # of a group
        self.rest = product.outputs % self.block
        self.runs = self._runs(tile.rows)
        self.tiles = sum(tiles for *_, tiles, _ in self.runs)
        # cache lines for each tile to request
        self.ahead = -(-product.steps * self.block * 4 // _CACHE_LINE // (product.lines * self.tiles))
        self.requests = product.ahead if self.blocks * product.groups > 1 and product.depth % _PERIOD == 0 else None

    def _runs(self, rows: int) -> list[tuple[int, int, int, bool]]:
        """(first position, rows of a tile, tiles, whether every tap of every position lies inside the input), in order."""
        product = self.product
        runs: list[tuple[int, int, int, bool]] = []
        for start, size, tiles in split(product.width, rows):
            for number in range(tiles):
                at = start + number * size
                inside = all(product.reaches(tap, at + row) for tap in range(product.taps) for row in range(size))
                if runs and inside and runs[-1][3] and runs[-1][1] == size:
                    first, _, count, _ = runs[-1]
                    runs[-1] = (first, size, count + 1, True)
                else:
                    runs.append((at, size, 1, inside))
        return runs

    def run(self) -> Any:
        product, blocks = self.product, self.product.groups * self.blocks
        weight_bytes = 4 * product.steps * self.block
        share, keep_lines = lines_per_task(product.lines, blocks, product.line_bytes, weight_bytes, self.target)
        chunks = -(-product.lines // share)
        parts = 1
        if not keep_lines and chunks * blocks < _FEW_TASKS and product.lines <= chunks:
            parts = min(self.tiles, -(-2 * _FEW_TASKS // (chunks * blocks)))
        each = -(-self.tiles // parts)
        parts = -(-self.tiles // each)

        def lines_of(chunk: Any, body: Callable[[Any], Any]) -> Any:
            from tvm import tirx

            if product.lines % share == 0:
                return loop(share, lambda line: body(chunk * share + line), name="line")
            count = tirx.min(integer(share), product.lines - chunk * share)
            return loop(count, lambda line: body(chunk * share + line), name="line")

        if keep_lines:  # all blocks stay in the cache
            self.requests = None

        def task(number: Any) -> Any:
            if keep_lines:
                return loop(blocks, lambda block: self._block(block, lambda line_body: lines_of(number, line_body), None), name="block")
            if parts == 1:
                return self._block(number // chunks, lambda line_body: lines_of(number % chunks, line_body), None)
            return self._block(
                number // (chunks * parts),
                lambda line_body: lines_of(number // parts % chunks, line_body),
                (number % parts * each, each),
            )

        tasks = chunks if keep_lines else chunks * blocks * parts
        spread = parallel if product.macs >= PARALLEL_MACS and tasks > 1 else loop
        return spread(tasks, task)

    def alone(self) -> Any:
        product = self.product

        def block(number: Any) -> Any:
            return self._block(number, lambda line_body: loop(product.lines, line_body, name="line"), None)

        return loop(product.groups * self.blocks, block, name="block")

    def _block(self, block: Any, over_lines: Callable[[Callable[[Any], Any]], Any], part: tuple[Any, int] | None) -> Any:
        """All positions of some lines for one block of channels."""

        def lines(width: int) -> Any:
            return over_lines(lambda line: self._line(line, block, width, part))

        if not self.rest:
            return lines(self.block)
        if self.blocks == 1:
            return lines(self.rest)
        return choose(block % self.blocks == self.blocks - 1, lines(self.rest), lines(self.block))

    def _line(self, line: Any, block: Any, width: int, part: tuple[Any, int] | None) -> Any:
        from tvm import tirx

        statements, before = [], 0
        for start, rows, tiles, inside in self.runs:
            first, count = 0, tiles
            if part is not None:
                low = tirx.min(tirx.max(part[0] - before, 0), tiles)
                high = tirx.min(tirx.max(part[0] + part[1] - before, 0), tiles)
                first, count = low, high - low
            before += tiles

            def one(number: Any, start: int = start, rows: int = rows, inside: bool = inside, before: int = before - tiles) -> Any:
                return self._tile(
                    line, start + number * rows, start if not inside else None, rows, block, width, line * self.tiles + before + number
                )

            if part is not None and tiles == 1:
                statements.append(choose(count == 1, one(0), tirx.Evaluate(integer(0))))
            else:
                statements.append(loop(count, one, start=first, name="tile"))
        return sequence(statements)

    def _tile(self, line: Any, position: Any, known: int | None, rows: int, block: Any, width: int, number: Any) -> Any:
        """One tile; `known` is its first position where it lies at an edge, `number` counts the tiles of a block."""
        from tvm import tirx

        product, lanes = self.product, self.lanes
        starts = range(0, width, lanes)  # of the vectors
        sums = [[local(lanes, f"sum{row}_{start}") for start in starts] for row in range(rows)]
        group = block // self.blocks if product.groups > 1 else integer(0)

        def step(outer: Sequence[Any], tap: Any, depth: Any, reached: Sequence[int]) -> Any:
            def add(row: int, start: int) -> Any:
                one = sums[row][start // lanes]

                def lane_sum(lane: Any) -> Any:
                    left = product.left(line, position + row, outer, tap, group, depth)
                    return store(one, load(one, [lane]) + left * product.right(line, block, outer, tap, depth, start + lane), [lane])

                return vector(lanes, lane_sum)

            return sequence([add(row, start) for row in reached for start in starts])

        def depths(outer: Sequence[Any], tap: Any, body: Callable[[Any], Any], taps: int = 1) -> Any:
            """The loop over the depth of a tap, or of several at once."""
            if product.depth * taps <= _WRITTEN_OUT:
                return sequence([body(integer(depth)) for depth in range(product.depth * taps)])
            if self.requests is None:
                return loop(product.depth * taps, body, name="depth")
            periods = product.depth * taps // _PERIOD
            passed: Any = 0
            for axis, taps_of_axis in zip((*outer, tap), (*product.outer_taps, product.taps), strict=True):
                passed = passed * taps_of_axis + axis
            passed = passed * (product.depth // _PERIOD)
            return loop(periods, lambda period: request_and(period, passed, body), name="period")

        def request_and(period: Any, passed: Any, body: Callable[[Any], Any]) -> Any:
            assert self.requests is not None
            each = -(-self.ahead // (product.steps // _PERIOD))
            asked = []
            for one in range(each):
                place = tirx.min((passed + period) * each + one, self.ahead - 1)
                asked.append(prefetch(self.requests(block, number * self.ahead + place)))
            return sequence([*asked, loop(_PERIOD, lambda depth: body(period * _PERIOD + depth), name="depth")])

        def inner(outer: Sequence[Any]) -> Any:
            if known is None and product.contiguous:
                return depths(outer, integer(0), lambda depth: step(outer, integer(0), depth, range(rows)), product.taps)
            if known is None:
                return loop(
                    product.taps,
                    lambda tap: depths(outer, tap, lambda depth: step(outer, tap, depth, range(rows))),
                    name="tap",
                )

            def edge(tap: int, reached: Sequence[int]) -> Any:
                return depths(outer, integer(tap), lambda depth: step(outer, integer(tap), depth, reached))

            reach = [[row for row in range(rows) if product.reaches(tap, known + row)] for tap in range(product.taps)]
            return sequence([edge(tap, reached) for tap, reached in enumerate(reach) if reached])

        def taps(axes: Sequence[tuple[Any, Any]], outer: tuple[Any, ...]) -> Any:
            if not axes:
                return inner(outer)
            (start, extent), *others = axes
            return loop(extent, lambda tap: taps(others, (*outer, tap)), start=start, name="outer")

        channel = (group * product.outputs if product.groups > 1 else integer(0)) + (block % self.blocks) * self.block

        def begin(row: int, start: int) -> Any:
            def lane_begin(lane: Any) -> Any:
                initial = product.initial
                value = floats(0.0) if initial is None else initial(line, position + row, channel + start + lane)
                return store(sums[row][start // lanes], value, [lane])

            return vector(lanes, lane_begin)

        clear = [begin(row, start) for row in range(rows) for start in starts]
        stored, copies = [], []
        for row, vectors in enumerate(sums):
            for start, one in zip(starts, vectors, strict=True):
                count = min(lanes, width - start)
                if count < lanes:  # registers hold whole vectors: the part that counts is read from a copy
                    part = local(lanes, f"part{row}")
                    copies.append(part)
                    stored.append(copied(one, part, lanes))
                    one = part
                for first, size in pieces(count):

                    def lane_result(lane: Any, one: Any = one, at: int = first, place: int = start + first, row: int = row) -> Any:
                        return product.result(line, position + row, channel + place + lane, load(one, [at + lane]))

                    stored.append(vector(size, lane_result))
        return allocated([*(one for row in sums for one in row), *copies], [*clear, taps(product.outer(line), ()), *stored])


def vectors(extent: int, lanes: int, body: Callable[[Any, int], Any], start: Any = 0) -> list[Any]:
    """`body(first element, elements)` for every whole vector of a range, and for the powers of two behind the last one."""
    whole = extent // lanes
    found = [loop(whole, lambda number: body(start + number * lanes, lanes), name="vector")] if whole else []
    return found + [body(start + (whole * lanes + first), size) for first, size in pieces(extent % lanes)]


def pieces(width: int) -> list[tuple[int, int]]:
    """(first lane, lanes) of the powers of two that make up a width: other vectors are taken apart lane by lane."""
    found, first = [], 0
    while first < width:
        size = 1 << ((width - first).bit_length() - 1)
        found.append((first, size))
        first += size
    return found
