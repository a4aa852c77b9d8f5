"""Which multiplier of the array computes what: the mapping of a matrix product onto R rows and C columns, group after group.

| dataflow | place of (m, k, n) | time | partial sums |
|---|---|---|---|
| weight-stationary | row k mod R, column n mod C | fold (k div R, n div C), then m | run down a column; folds of k are added below it |
| input-stationary | row k mod R, column m mod C | fold (k div R, m div C), then n | the same |
| output-stationary | row m mod R, column n mod C | fold (m div R, n div C), then k | stay in the multiplier's register |
| event-driven | row m mod R, column n mod C | input after input in memory's order | lie in the memory of the row's core |

These are the folds whose cycles `effc.cost.accelerator` counts (for the first three SCALE-Sim's, arXiv 1811.02883). In the first two
the sum enters at row 0 as zero, passes all R rows and leaves at the bottom, also where the last fold has fewer than R rows of weights:
idle multipliers of a used column hold zeros and hand the sum on. Idle columns give results that nobody reads, as do idle multipliers of
the other dataflows. The inputs of an output come in the order of k in all four.

A multiplier is *gated* where its input is zero and the description skips zeros (`skipping.zeros`): nothing is multiplied, and no product is
added. The number of channels that are skipped together counts: a zero beside another number is multiplied.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from effc.cost.accelerator.description import Dataflow
from effc.faultsim.accelerator.work import Extents

__all__ = ["Dataflow", "Mapping", "Served"]


@dataclass(frozen=True)
class Served:
    """The outputs whose sums pass through one place: positions and channels, every one with every other; () where the place idles."""

    positions: Tensor
    channels: Tensor

    def __bool__(self) -> bool:
        return bool(len(self.positions) and len(self.channels))


@dataclass(frozen=True)
class Mapping:
    """An array.

    Attributes:
        rows, columns: of multipliers. `dataflow`: see the module docstring.
        skip: neighbouring channels whose zeros are skipped together; None where zeros are multiplied as everything else.
    """

    rows: int
    columns: int
    dataflow: Dataflow
    skip: int | None = None

    @property
    def reduces_in_columns(self) -> bool:
        """Whether partial sums run down the columns, so that the rows are reduction indices."""
        return self.dataflow in ("weight-stationary", "input-stationary")

    def place(self, m: int, k: int, n: int) -> tuple[int, int]:
        """Row and column of the multiplier that forms A[m, k] * B[k, n]."""
        if not self.reduces_in_columns:
            return m % self.rows, n % self.columns
        return k % self.rows, (n if self.dataflow == "weight-stationary" else m) % self.columns

    def folds(self, extents: Extents) -> int:
        """Folds of the reduction: how often a sum in an accumulator is added to; each input is one where sums stay in their place."""
        return -(-extents.depth // self.rows) if self.reduces_in_columns else extents.depth

    def reduced(self, extents: Extents, fold: int, row: int) -> range:
        """The reduction indices whose products are in a sum when it leaves `row` in a fold (of a fold of one index: that one)."""
        if not self.reduces_in_columns:
            return range(fold, fold + 1)
        return range(min(fold * self.rows, extents.depth), min(fold * self.rows + row + 1, extents.depth))

    def served(self, extents: Extents, row: int, column: int) -> Served:
        """The outputs of each group whose sums pass through a multiplier."""
        positions, channels = torch.arange(extents.positions), torch.arange(extents.channels)
        if self.dataflow == "weight-stationary":
            return Served(positions, channels[column :: self.columns])
        if self.dataflow == "input-stationary":
            return Served(positions[column :: self.columns], channels)
        return Served(positions[row :: self.rows], channels[column :: self.columns])

    def multiplied(self, extents: Extents, row: int) -> tuple[Tensor, int]:
        """The reduction indices that a multiplier of `row` forms products of, for each output it serves; and in how many folds it idles."""
        if not self.reduces_in_columns:
            return torch.arange(extents.depth), 0
        ks = torch.arange(extents.depth)[row :: self.rows]
        return ks, self.folds(extents) - len(ks)

    def live(self, x: Tensor, axis: int) -> Tensor:
        """Where an input is multiplied at all: 1 or 0, in its shape. `axis`: of its channels."""
        if self.skip is None:
            return torch.ones_like(x)
        there = x != 0
        if self.skip > 1:
            channels = there.shape[axis]
            moved = torch.nn.functional.pad(there.movedim(axis, -1), (0, -channels % self.skip))
            blocks = moved.reshape(*moved.shape[:-1], -1, self.skip)
            there = blocks.any(-1, keepdim=True).expand(blocks.shape).flatten(-2)[..., :channels].movedim(-1, axis)
        return there.to(x.dtype)
