"""Which register tile a sum of products gets, and how its work is split: a small analytic model of the processor.

A tile holds the sums of `rows` positions times `vectors` vectors of output channels in registers. One step of the reduction loads
`vectors` weights and `rows` inputs (each into all lanes) and does `rows * vectors` multiply-adds. What a step costs, in cycles:

    max(multiply-adds / 2, loads / 1.4, latency) + what weights cost that come from the second-level cache

The first three are properties of every current processor of this kind: two multiply-adds a cycle, in practice one and a half loads (two
at best), and a result that is ready after four cycles, so at least eight sums must be under way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from effc.errors import ConfigError
from effc.targets import Target

__all__ = ["FEW_LINES", "Choice", "Tile", "candidates", "choose", "cycles", "divisors", "lanes_of", "lines_per_task", "ranked", "split"]

_PORTS = 2  # multiply-adds that start in one cycle
_LOADS = 1.4  # loads in one cycle
_LATENCY = 4.0  # cycles until a multiply-add's result can be used
_LINE = 1.0  # cycles that a cache line of weights from the second-level cache costs beside the arithmetic
_LINE_BYTES = 64
_EDGE = 6.0  # steps that the loop of a tap costs at an edge
_TILE = 30.0  # cycles around a tile: loops, stores
_MOST_VECTORS = 8


@dataclass(frozen=True)
class Tile:
    """`rows` positions times `vectors` vectors of output channels."""

    rows: int
    vectors: int


@dataclass(frozen=True)
class Choice:
    """The tiles of a layer, best by the model first; `key` names the layer by its sizes, the same in every program."""

    key: str
    candidates: tuple[Tile, ...]

    def tile(self, measured: Mapping[str, Tile]) -> Tile:
        """The measured one, else the model's. Raises ConfigError for a measured one that the layer cannot have."""
        found = measured.get(self.key, self.candidates[0])
        if found not in self.candidates:
            raise ConfigError(f"tuning: {self.key} cannot have tiles of {found.rows} x {found.vectors} vectors on this target")
        return found

    def note(self, tile: Tile, lanes: int, measured: Mapping[str, Tile]) -> str:
        """What a report says of the tile."""
        return f"tiles of {tile.rows} x {tile.vectors * lanes}{', measured' if self.key in measured else ''}"


def divisors(number: int) -> list[int]:
    return [candidate for candidate in range(1, number + 1) if number % candidate == 0]


def lanes_of(target: Target, dtype: str) -> int:
    """Elements of a type in one vector; types narrower than 32 bit are counted as 32 bit, as they are summed in that."""
    import numpy as np

    return max(1, target.lanes * 4 // max(4, np.dtype(dtype).itemsize))


def split(extent: int, rows: int) -> list[tuple[int, int, int]]:
    """Runs of equal tiles that cover `extent` positions, as (start, rows of a tile, tiles); sizes differ by one at most."""
    tiles = -(-extent // rows)
    small, more = divmod(extent, tiles)
    runs = [(0, small + 1, more), (more * (small + 1), small, tiles - more)]
    return [run for run in runs if run[2]]


def ranked(width: int, outputs: int, depth: int, lanes: int, registers: int, *, taps: int = 1, edges: int = 0) -> tuple[Tile, ...]:
    """Every possible tile, the fastest by the model first.

    Args:
        width: positions that tiles may share.
        outputs: output channels.
        depth: input channels of a tap.
        lanes: elements of a vector.
        registers: vector registers.
        taps: of the window.
        edges: ends of a line whose window sticks out over the input: 0, 1 or 2.
    """

    def predicted(tile: Tile) -> float:
        return cycles(tile, width, outputs, depth, lanes, taps=taps, edges=edges)

    return tuple(sorted(candidates(width, outputs, lanes, registers), key=predicted))


def choose(width: int, outputs: int, depth: int, lanes: int, registers: int, *, taps: int = 1, edges: int = 0) -> Tile:
    """The first of `ranked`."""
    return ranked(width, outputs, depth, lanes, registers, taps=taps, edges=edges)[0]


def candidates(width: int, outputs: int, lanes: int, registers: int) -> Iterator[Tile]:
    """Every tile whose sums, weights and one input fit into the registers."""
    needed = -(-outputs // lanes)
    for vectors in range(1, min(_MOST_VECTORS, needed) + 1):
        for rows in range(1, min(width, 30) + 1):
            if rows * vectors + vectors + 1 <= registers or (rows, vectors) == (1, 1):
                yield Tile(rows, vectors)


def cycles(tile: Tile, width: int, outputs: int, depth: int, lanes: int, *, taps: int = 1, edges: int = 0) -> float:
    """What the product of one line costs with a tile."""
    blocks, rest = divmod(outputs, tile.vectors * lanes)
    tiles = sum(count for *_, count in split(width, tile.rows))
    # At the edges every tap is a loop of its own, which is short where there are few channels.
    edge = 1 + _EDGE / max(depth, 1) * min(edges, tiles) / tiles
    total = 0.0
    for vectors, times in ((tile.vectors, blocks), (-(-rest // lanes), 1 if rest else 0)):
        for _, rows, count in split(width, tile.rows):
            step = max(rows * vectors / _PORTS, (rows + vectors) / _LOADS, _LATENCY) + _LINE * vectors * lanes * 4 / _LINE_BYTES
            total += times * count * (depth * taps * step * edge + _TILE)
    return total


def lines_per_task(lines: int, blocks: int, line_bytes: int, weight_bytes: int, target: Target) -> tuple[int, bool]:
    """How many lines a task takes, and whether a task keeps them while all blocks of weights pass (else one block stays, lines pass).

    Threads take neighbouring tasks. Where a task keeps its lines, each thread reads all weights, but of the activations mostly what it
    has written itself in the layer before; else it reads its part of the weights, and from the other cores' caches what they have written.

    Args:
        lines: rows of the output, over all images.
        blocks: blocks of output channels.
        line_bytes: input bytes that one more line needs.
        weight_bytes: of one block.
    """
    inputs, weights, room = lines * line_bytes, weight_bytes * blocks, max(1, target.l2 // 2)
    if inputs + weight_bytes > room:
        keep = weights <= inputs
    else:
        keep = lines >= FEW_LINES and weights <= min(_WRITTEN * inputs, _RESIDENT * room)
    if keep and blocks > 1:
        return max(1, min(-(-lines // _TASKS), (room - min(weight_bytes, room // 2)) // max(1, line_bytes))), True
    return max(1, -(-lines * blocks // _TASKS) if blocks < _TASKS else lines), False


_TASKS = 16  # enough for a few threads to share evenly, few enough to cost nothing
FEW_LINES = 8  # fewer cannot be shared out evenly
_RESIDENT = 0.75  # of that room: as much of the weights stays while lines pass
_WRITTEN = 2.0  # what it costs to read what another core has written, to reading what is in the memory or the shared cache
