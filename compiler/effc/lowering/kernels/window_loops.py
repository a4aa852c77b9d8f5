"""The loops of `windows`: a tile of positions times vectors of channels folds in registers while the window passes.

Each row of the window loads an input vector once, for all positions of the tile whose windows hold it. A pool goes further: it folds each
column of the tile first, and joins the columns of every window at the end.

Taps outside the input are left out, so that nothing is padded: outer axes run over the rows that exist, and tiles at the ends of a line
know at compile time which columns do. Windows that are long along the line are loops there, too; then positions at the ends go one by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from effc.lowering.kernels.code import allocated, choose, floats, integer, load, local, loop, parallel, sequence, store, vector
from effc.lowering.kernels.products import pieces
from effc.lowering.kernels.tiles import FEW_LINES, lanes_of
from effc.lowering.kernels.windows import Run, Windows, choose_tile, runs
from effc.targets import Target

__all__ = ["loops"]

PARALLEL_STEPS = 1 << 18  # below it, starting threads costs more than they save
_TASKS = 16  # enough for a few threads to share evenly, few enough to cost nothing


def loops(windows: Windows, target: Target) -> Any:
    """The statement that computes all results."""
    return _Emitter(windows, target).run()


class _Emitter:
    def __init__(self, windows: Windows, target: Target) -> None:
        self.windows, self.lanes = windows, lanes_of(target, "float32")
        self.resident = 4 * windows.channels * math.prod(windows.sizes) <= target.l2 // 2
        tile = choose_tile(windows, self.lanes, target.registers, self.resident)
        self.block = tile.vectors * self.lanes
        self.blocks, self.rest = -(-windows.channels // self.block), windows.channels % self.block
        self.lines = windows.batch * math.prod(windows.positions[:-1])
        self.runs = list(runs(windows, tile.rows))

    def run(self) -> Any:
        """The tasks: lines, as in the layers around it, so that threads read what they have written themselves. Where lines are too few
        to be shared out, a task gets one block of channels, or a part of each line.

        A task passes over its lines block by block where the cache holds an image; else it reads each line once, for all blocks.
        """
        windows, blocks = self.windows, self.blocks
        tiles = sum(run.tiles for run in self.runs)
        spread, wanted = (parallel, _TASKS) if windows.steps >= PARALLEL_STEPS else (loop, 1)
        by_block = self.resident and self.lines < FEW_LINES
        if by_block:
            wanted = -(-wanted // blocks)
        share = -(-self.lines // wanted)  # lines of a task
        chunks = -(-self.lines // share)
        parts = min(tiles, wanted // chunks)
        each = -(-tiles // parts)
        parts = -(-tiles // each)

        def lines_of(number: Any, block: Any) -> Any:
            from tvm import tirx

            chunk = number // parts
            count = share if self.lines % share == 0 else tirx.min(integer(share), self.lines - chunk * share)
            part = None if parts == 1 else (number % parts * each, each)
            return loop(count, lambda line: self._line(chunk * share + line, block, part), name="line")

        def task(number: Any) -> Any:
            if by_block:
                return lines_of(number % (chunks * parts), number // (chunks * parts))
            if self.resident:
                return loop(blocks, lambda block: lines_of(number, block), name="block")
            return lines_of(number, None)

        tasks = chunks * parts * (blocks if by_block else 1)
        return (spread if tasks > 1 else loop)(tasks, task)

    def _line(self, line: Any, block: Any, part: tuple[Any, int] | None) -> Any:
        """A line, or the part of it that is (first tile, tiles), for one block of channels or (None) for all of them."""
        if block is None:
            return loop(self.blocks, lambda block: self._line(line, block, part), name="block")

        def blocks(width: int) -> Any:
            whole = width // self.lanes * self.lanes
            vectors = [(first, self.lanes) for first in range(0, whole, self.lanes)]
            vectors += [(whole + first, size) for first, size in pieces(width - whole)]
            return self._tiles(line, block * self.block, vectors, part)

        if self.rest and self.blocks > 1:
            return choose(block == self.blocks - 1, blocks(self.rest), blocks(self.block))
        return blocks(self.rest or self.block)

    def _tiles(self, line: Any, channel: Any, vectors: Sequence[tuple[int, int]], part: tuple[Any, int] | None) -> Any:
        from tvm import tirx

        image, *outer = self._places(line)
        statements, before = [], 0
        for run in self.runs:
            first: Any = 0
            count: Any = run.tiles
            if part is not None:
                first = tirx.min(tirx.max(part[0] - before, 0), run.tiles)
                count = tirx.min(tirx.max(part[0] + part[1] - before, 0), run.tiles) - first
            before += run.tiles

            def tile(number: Any, run: Run = run) -> Any:
                return _TileCode(self.windows, image, outer, run.start + number * run.rows, run, channel, vectors).statement()

            statements.append(loop(count, tile, start=first, name="tile"))
        return sequence(statements)

    def _places(self, line: Any) -> list[Any]:
        """Image and outer positions of a line."""
        found = []
        for positions in reversed(self.windows.positions[:-1]):
            found.append(line % positions)
            line = line // positions
        return [line, *reversed(found)]


class _TileCode:
    """The code of one tile: `vectors` are (first channel, lanes), counted from `channel`."""

    def __init__(
        self, windows: Windows, image: Any, outer: Sequence[Any], position: Any, run: Run, channel: Any, vectors: Sequence[tuple[int, int]]
    ) -> None:
        self.windows, self.image, self.outer, self.position, self.run = windows, image, outer, position, run
        self.channel, self.vectors = channel, vectors
        self.columns = {
            column: served
            for column, served in windows.columns(run.rows).items()
            if run.inside or 0 <= run.start * windows.strides[-1] + column < windows.sizes[-1]
        }
        folds = list(self.columns) if windows.by_column else list(range(run.rows))
        self.folds = {fold: self._locals(f"fold{number}") for number, fold in enumerate(folds)}
        self.values, self.joined = self._locals("value"), self._locals("joined")

    def statement(self) -> Any:
        windows = self.windows
        clear = [self._each(fold, lambda lane, channel, first: floats(windows.start)) for fold in self.folds.values()]
        axes = [windows.reached(axis, at) for axis, at in enumerate(self.outer)]
        if windows.long:
            axes.append((0, windows.taps[-1]) if self.run.inside else windows.reached(len(self.outer), self.position))
        buffers = [*self.folds.values(), self.values, *([self.joined] if windows.by_column else [])]
        return allocated(
            [one for group in buffers for one in group.values()],
            [*clear, *([self._over(axes, ())] if self.columns else []), *(self._finished(row) for row in range(self.run.rows))],
        )

    def _over(self, axes: Sequence[tuple[Any, Any]], taps: tuple[Any, ...]) -> Any:
        """The loops over the window."""
        if axes:
            (start, extent), *others = axes
            return loop(extent, lambda tap: self._over(others, (*taps, tap)), start=start, name="tap")
        windows = self.windows
        outer = [
            at * windows.strides[axis] + taps[axis] * windows.dilation[axis] - windows.before[axis] for axis, at in enumerate(self.outer)
        ]
        statements = []
        if windows.long:
            for row in range(self.run.rows):
                column = row * windows.strides[-1] + taps[-1] * windows.dilation[-1] - windows.before[-1]
                statements += [self._loaded(outer, column), self._stepped(row, taps)]
            return sequence(statements)
        for column, served in self.columns.items():
            statements.append(self._loaded(outer, column))
            for row, tap in [(column, 0)] if windows.by_column else served:
                statements.append(self._stepped(row, (*taps, integer(tap))))
        return sequence(statements)

    def _loaded(self, outer: Sequence[Any], column: Any) -> Any:
        place = [*outer, self.position * self.windows.strides[-1] + column]
        return self._each(self.values, lambda lane, channel, first: self.windows.element(self.image, place, channel))

    def _stepped(self, fold: int, taps: Sequence[Any]) -> Any:
        def value(lane: Any, channel: Any, first: int) -> Any:
            return self.windows.step(load(self.folds[fold][first], [lane]), load(self.values[first], [lane]), taps, channel)

        return self._each(self.folds[fold], value)

    def _finished(self, row: int) -> Any:
        """The results of a row are stored."""
        windows = self.windows
        results, statements = (self.joined, self._columns_joined(row)) if windows.by_column else (self.folds[row], [])
        for first, width in self.vectors:

            def stored(lane: Any, first: int = first) -> Any:
                value = load(results[first], [lane])
                return windows.result(self.image, [*self.outer, self.position + row], self.channel + first + lane, value)

            statements.append(vector(width, stored))
        return sequence(statements)

    def _columns_joined(self, row: int) -> list[Any]:
        """One fold from those of the columns that a row's window holds."""
        windows, statements = self.windows, []
        for number, column in enumerate(column for column, served in self.columns.items() if any(one == row for one, _ in served)):

            def value(lane: Any, channel: Any, first: int, number: int = number, column: int = column) -> Any:
                fold = load(self.folds[column][first], [lane])
                if number == 0 or windows.join is None:
                    return fold
                return windows.join(load(self.joined[first], [lane]), fold)

            statements.append(self._each(self.joined, value))
        return statements or [self._each(self.joined, lambda lane, channel, first: floats(windows.start))]

    def _locals(self, name: str) -> dict[int, Any]:
        """A buffer for each vector."""
        return {first: local(width, f"{name}_{first}") for first, width in self.vectors}

    def _each(self, buffers: dict[int, Any], value: Callable[[Any, Any, int], Any]) -> Any:
        """Every vector's buffer gets the value for (lane, channel, the vector's first channel)."""

        def one(first: int, width: int) -> Any:
            return vector(width, lambda lane: store(buffers[first], value(lane, self.channel + first + lane, first), [lane]))

        return sequence([one(first, width) for first, width in self.vectors])
