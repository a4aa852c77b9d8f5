"""Whether a product should skip the rows of its weights whose input is zero: both ways' times, predicted from the target's rates.

    dense    = bytes of all weights / dense rate
    skipping = scan * inputs + rows that are read * (start + bytes of a row / skipping rate)

A row of the weights is read when any of the `rows` inputs at its place is not zero. Taken as independent, a share of 1 - (1 - p)^B of the
rows is read for B inputs of density p (half the inputs at B = 4: 94 %), so that skipping ends where several tokens go together.
"""

from __future__ import annotations

from dataclasses import dataclass

from effc.targets import Target

__all__ = ["Skipping", "skipping", "union_density"]


MOST_ROWS = 8  # inputs at once: their sums must stay in the first-level cache


@dataclass(frozen=True)
class Skipping:
    """A decision.

    Attributes:
        pays: whether skipping is predicted to be faster.
        dense, skipping: predicted nanoseconds.
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
