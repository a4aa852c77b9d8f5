"""Whether a product should skip the rows of its weights whose input is zero: both ways' times, predicted from the target's rates.

    dense    = bytes of all weights / dense rate
    skipping = scan * inputs + rows that are read * (start + bytes of a row / skipping rate)

A row of the weights is read when any of the `rows` inputs at its place is not zero. Taken as independent, a share of 1 - (1 - p)^B of the
rows is read for B inputs of density p (half the inputs at B = 4: 94 %), so that skipping ends where several tokens go together.

Microcontrollers (family `c99`) have no rates: their kernels are counted. They sum `tile` results at a time (up to 8, fewer where they are
few: `effc.cost.tiles`), one input after the other, each of which is loaded, tested and met by `tile` loads of weights and as many
multiply-adds:

    dense    = inputs * ceil(results / tile) * (2 tile + 3) instructions
    skipping = inputs * ceil(results / tile) * (6 + p * 2 tile)

So skipping pays where p < 1 - 3 / (2 tile): 81 % for tiles of 8, 70 % for 5, never for a single result.
"""

from __future__ import annotations

from dataclasses import dataclass

from effc.cost.tiles import STEP, register_tile
from effc.targets import C99, Target

__all__ = ["Skipping", "counted", "skipping", "union_density"]


MOST_ROWS = 8  # inputs at once: their sums must stay in the first-level cache
_TEST = 3  # instructions of family c99 that test an input
_INSTRUCTION = 10.0  # nanoseconds: no target says how fast its clock is, so a hundred million instructions a second


@dataclass(frozen=True)
class Skipping:
    """A decision.

    Attributes:
        pays: whether skipping is predicted to be faster.
        dense, skipping: predicted nanoseconds; of family `c99` those of a core with a hundred million instructions a second.
        read: share of the weights' rows that is read.
        why: the numbers, for a report.
    """

    pays: bool
    dense: float
    skipping: float
    read: float
    why: str


def union_density(density: float, rows: int) -> float:
    """The share of places where any of `rows` independent inputs is not zero."""
    return 1.0 - (1.0 - density) ** rows


def skipping(target: Target, *, rows: int, depth: int, columns: int, density: float, stored: int, itemsize: int = 4) -> Skipping:
    """Predict the time of a product of `rows` inputs with weights of `depth` x `columns`.

    Args:
        target: gives the rates.
        rows, depth, columns: sizes of the product.
        density: share of inputs that are not zero.
        stored: bytes of all weights of the network: where they fit into the second-level caches, they are there when they are needed.
        itemsize: bytes of a weight.
    """
    if target.family == C99:
        return counted(rows, depth, columns, density)
    rates = target.rates
    level, place = (rates.cache, "cached") if stored <= target.l2 * max(1, rates.threads) else (rates.memory, "from memory")
    read = union_density(density, rows)
    weights = depth * columns * itemsize
    dense = weights / level.dense
    row = level.start + columns * itemsize / level.skipping
    sparse = rates.scan * depth * rows + read * depth * row
    pays = sparse < dense and rows <= MOST_ROWS
    of_rows = f" ({read:.0%} for {rows} inputs at once)" if rows > 1 else ""
    said = f"density {density:.0%}{of_rows}: skipping {sparse / 1000:,.1f} µs, dense {dense / 1000:,.1f} µs predicted, weights {place}"
    if pays:
        said += f"; {(1 - read) * weights / 1000:,.0f} kB of {weights / 1000:,.0f} kB not read"
    elif sparse < dense:
        said += f"; more than {MOST_ROWS} inputs at once are not skipped"
    return Skipping(pays, dense, sparse, read, said)


def counted(rows: int, depth: int, columns: int, density: float) -> Skipping:
    """Count the instructions of a microcontroller's product of `rows` inputs of a density with weights of `depth` x `columns`."""
    tile = register_tile(columns, "float32")
    turns = rows * depth * -(-columns // tile)
    dense, sparse = turns * (2 * tile + STEP), turns * (STEP + _TEST + density * 2 * tile)
    said = f"density {density:.0%}: skipping {sparse:,.0f} instructions, dense {dense:,.0f} predicted"
    return Skipping(sparse < dense, dense * _INSTRUCTION, sparse * _INSTRUCTION, density, said)
