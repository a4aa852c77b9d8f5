"""Windows that slide over a channels-last image, each channel by itself: what pools and depthwise convolutions have in common.

    result[image, position, channel] = fold over taps of input[image, position * stride + tap * dilation - before, channel]

`window_loops` writes the code, in tiles: positions along the last axis of the image (the line) times vectors of channels. Here is which
tile, from a small model of the processor. What one row of the window costs a tile, in cycles:

    max(steps * cost of a step, vectors loaded / 1.5)

An image that the second-level cache holds gets the fastest tile by that. One that it does not hold comes at the speed of memory, which is
best when more channels are read together.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from effc.lowering.kernels.tiles import Tile, split

__all__ = ["Run", "Windows", "choose_tile", "runs"]

_LONG = 16  # taps along a line that are still written out
_LOADS = 1.5  # vectors loaded in one cycle
_TILE = 6.0  # cycles around a tile
_ROW = 3.0  # cycles around one row of a window
_STORE = 2.0  # cycles behind the fold of one vector
_RUN = 8.0  # cycles that another piece of code costs a line
_ALONE = 2.0  # what it costs to read one vector of a position at a time: caches fetch lines in pairs
_SPILLED = 3.0  # loads that a step costs whose fold has no register
_STREAM = 4  # vectors that are read together where the cache does not hold the image
_NEAR = 1.3  # what that may cost
_MOST_ROWS = 16
_MOST_VECTORS = 8


@dataclass(frozen=True)
class Windows:
    """What slides over what.

    Attributes:
        batch, channels: of input and output alike.
        sizes, positions: of the input's and the output's spatial axes.
        taps, strides, dilation, before: of the window; `before` is the padding in front.
        start: what a fold begins with.
        element: of the input, for (image, place on each spatial axis, channel).
        step: the fold's next value for (its value, an element, tap on each axis, channel).
        result: statement that stores a value for (image, position on each axis, channel).
        join: one fold of two, where steps are the same for every tap; None where they are not.
        step_cost: cycles of one step of a vector.
    """

    batch: int
    channels: int
    sizes: tuple[int, ...]
    positions: tuple[int, ...]
    taps: tuple[int, ...]
    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    before: tuple[int, ...]
    start: float
    element: Callable[[Any, Sequence[Any], Any], Any]
    step: Callable[[Any, Any, Sequence[Any], Any], Any]
    result: Callable[[Any, Sequence[Any], Any, Any], Any]
    join: Callable[[Any, Any], Any] | None
    step_cost: float

    @property
    def steps(self) -> int:
        return self.batch * self.channels * math.prod(self.positions) * math.prod(self.taps)

    @property
    def long(self) -> bool:
        """Whether the taps along a line are a loop."""
        return self.taps[-1] > _LONG

    @property
    def by_column(self) -> bool:
        """Whether a tile folds each column of the image first, and then joins those of a window."""
        return self.join is not None and not self.long

    def inside(self, position: int) -> bool:
        """Whether the window at a position of the line lies inside the input."""
        first = position * self.strides[-1] - self.before[-1]
        return first >= 0 and first + (self.taps[-1] - 1) * self.dilation[-1] < self.sizes[-1]

    def reached(self, axis: int, position: Any) -> tuple[Any, Any]:
        """(first tap, number of taps) of an axis that lie inside the input.

        No negative number is divided: TVM's simplifier gets some of those wrong.
        """
        from tvm import tirx

        step, taps, before, size = self.dilation[axis], self.taps[axis], self.before[axis], self.sizes[axis]
        start = position * self.strides[axis]
        last = (self.positions[axis] - 1) * self.strides[axis] - before + (taps - 1) * step
        first: Any = (tirx.max(before - start, 0) + step - 1) // step if before > 0 else 0
        end: Any = tirx.min(taps, (tirx.max(size + before - start, 0) + step - 1) // step) if last >= size else taps
        extent = end - first
        return first, extent if isinstance(extent, int) else tirx.max(extent, 0)

    def columns(self, rows: int) -> dict[int, list[tuple[int, int]]]:
        """The columns of the input, counted from the first position's, that a tile of some rows reads: which (row, tap) each serves."""
        found: dict[int, list[tuple[int, int]]] = {}
        for row in range(rows):
            for tap in range(self.taps[-1]):
                found.setdefault(row * self.strides[-1] + tap * self.dilation[-1] - self.before[-1], []).append((row, tap))
        return dict(sorted(found.items()))


@dataclass(frozen=True)
class Run:
    """Equal tiles along a line: `inside` when every window of every position lies inside the input."""

    start: int
    rows: int
    tiles: int
    inside: bool


def runs(windows: Windows, rows: int) -> Iterator[Run]:
    """The tiles that cover a line, in order."""
    width = windows.positions[-1]
    if windows.long:
        inside = [position for position in range(width) if windows.inside(position)] or [width]
        if inside[0]:
            yield Run(0, 1, inside[0], False)
        for start, size, tiles in split(len(inside), rows) if inside[0] < width else ():
            yield Run(inside[0] + start, size, tiles, True)
        if inside[-1] + 1 < width:
            yield Run(inside[-1] + 1, 1, width - inside[-1] - 1, False)
        return
    for start, size, tiles in split(width, rows):
        within = [windows.inside(first) and windows.inside(first + size - 1) for first in range(start, start + size * tiles, size)]
        for whole, numbers in itertools.groupby(range(tiles), key=within.__getitem__):
            if whole:
                first, *others = numbers
                yield Run(start + first * size, size, 1 + len(others), True)
            else:
                yield from (Run(start + number * size, size, 1, False) for number in numbers)


def choose_tile(windows: Windows, lanes: int, registers: int, resident: bool) -> Tile:
    """The fastest tile by the model.

    Args:
        windows: what is computed.
        lanes: elements of a vector.
        registers: vector registers.
        resident: whether the second-level cache holds an image.
    """
    most = min(_MOST_VECTORS, -(-windows.channels // lanes))
    tiles = [
        Tile(rows, vectors)
        for vectors in range(1, most + 1)
        for rows in range(1, min(_MOST_ROWS, windows.positions[-1]) + 1)
        if vectors == 1 or (_folds(windows, rows) + 1) * vectors <= registers
    ]
    costs = {tile: _cycles(windows, tile, lanes, registers) for tile in tiles}
    if resident:
        return min(tiles, key=lambda tile: (costs[tile], -tile.vectors))
    bound = min(costs.values()) * _NEAR
    return min((tile for tile in tiles if costs[tile] <= bound), key=lambda tile: (-min(tile.vectors, _STREAM), costs[tile]))


def _folds(windows: Windows, rows: int) -> int:
    """Vectors that are folded at the same time, for each vector of channels."""
    return len(windows.columns(rows)) + 1 if windows.by_column else rows


def _cycles(windows: Windows, tile: Tile, lanes: int, registers: int) -> float:
    """What a line costs with a tile."""
    blocks, rest = divmod(windows.channels, tile.vectors * lanes)
    total, taps = _RUN * sum(1 for _ in runs(windows, tile.rows)), windows.taps[-1]
    for vectors, times in ((tile.vectors, blocks), (-(-rest // lanes), 1 if rest else 0)):
        for _, rows, tiles in split(windows.positions[-1], tile.rows):
            columns = rows * taps if windows.long else len(windows.columns(rows))
            steps, behind = (columns, (taps - 1) * windows.step_cost) if windows.by_column else (rows * taps, 0.0)
            loads = columns * (_ALONE if tile.vectors == 1 and windows.channels > lanes else 1.0)
            if windows.join is None:
                loads += taps if windows.long or (rows + taps + 1) * vectors <= registers else steps
            if (_folds(windows, rows) + 1) * vectors > registers:
                loads += _SPILLED * steps
            row = max(steps * windows.step_cost, loads / _LOADS) * vectors + _ROW
            total += times * tiles * (math.prod(windows.taps[:-1]) * row + rows * vectors * (_STORE + behind) + _TILE)
    return total
