"""Which multiplier of the array computes what: the mapping of a matrix product onto R rows and C columns, group after group.

| dataflow | place of (m, k, n) | time | partial sums |
|---|---|---|---|
| weight-stationary | row k mod R, column n mod C | fold (k div R, n div C), then m | run down a column; folds of k are added below it |
| input-stationary | row k mod R, column m mod C | fold (k div R, m div C), then n | the same |
| output-stationary | row m mod R, column n mod C | fold (m div R, n div C), then k | stay in the multiplier's register |
| event-driven | row: the core of m and n; column n mod C | input after input | lie in the memory of the row's core |

Which core owns which outputs of an event-driven array says `effc.cost.accelerator.cores`. These are the folds whose cycles
`effc.cost.accelerator` counts (for the first three SCALE-Sim's, arXiv 1811.02883). In the first two the sum enters at row 0 as zero, passes
all R rows and leaves at the bottom, also where the last fold has fewer than R rows of weights: idle multipliers of a used column hold zeros
and hand the sum on. Idle columns give results that nobody reads, as do idle multipliers of the other dataflows. The inputs of an output
come in the order of k in all four.

A multiplier is *gated* where its input is zero and the description skips zeros (`skipping.zeros`): nothing is multiplied, and no product is
added. The number of channels that are skipped together counts: a zero beside another number is multiplied. Channels are skipped together
within a group, and of a depthwise convolution, whose groups have one channel each, across groups.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from effc.cost.accelerator.cores import Cores, neighbours
from effc.cost.accelerator.description import Dataflow
from effc.faultsim.accelerator.work import Extents

__all__ = ["Dataflow", "Mapping", "Outputs", "Served"]


@dataclass(frozen=True)
class Served:
    """The outputs whose sums run down a column: positions and channels, every one with every other, in all groups; none where it idles."""

    positions: Tensor
    channels: Tensor

    def __bool__(self) -> bool:
        return bool(len(self.positions) and len(self.channels))


@dataclass(frozen=True)
class Outputs:
    """The outputs whose sums pass through one place, one by one: three lists of one length."""

    groups: Tensor
    channels: Tensor
    positions: Tensor

    def __len__(self) -> int:
        return len(self.groups)


@dataclass(frozen=True)
class Mapping:
    """An array.

    Attributes:
        rows, columns: of multipliers. `dataflow`: see the module docstring.
        skip: neighbouring channels whose zeros are skipped together; None where zeros are multiplied as everything else.
        width: channels that are one event where no zeros are skipped (of an array that skips unchanged ones).
    """

    rows: int
    columns: int
    dataflow: Dataflow
    skip: int | None = None
    width: int = 1

    @property
    def reduces_in_columns(self) -> bool:
        """Whether partial sums run down the columns, so that the rows are reduction indices."""
        return self.dataflow in ("weight-stationary", "input-stationary")

    @property
    def is_single_events(self) -> bool:
        """Whether the array is event-driven, and every input an event of its own."""
        return self.dataflow == "event-driven" and (self.skip or self.width) == 1

    def folds(self, extents: Extents) -> int:
        """Folds of the reduction: how often a sum in an accumulator is added to; each input is one where sums stay in their place."""
        return -(-extents.depth // self.rows) if self.reduces_in_columns else extents.depth

    def reduced(self, extents: Extents, fold: int, row: int) -> range:
        """The reduction indices whose products are in a sum when it leaves `row` in a fold (of a fold of one index: that one)."""
        if not self.reduces_in_columns:
            return range(fold, fold + 1)
        return range(min(fold * self.rows, extents.depth), min(fold * self.rows + row + 1, extents.depth))

    def served(self, extents: Extents, column: int) -> Served:
        """The outputs of each group whose sums run down a column."""
        positions, channels = torch.arange(extents.positions), torch.arange(extents.channels)
        if self.dataflow == "weight-stationary":
            return Served(positions, channels[column :: self.columns])
        return Served(positions[column :: self.columns], channels)

    def cores(self, extents: Extents) -> Cores:
        """How outputs are dealt out to the cores of an event-driven array."""
        wide = self.skip or self.width
        depthwise = extents.groups > 1 and extents.inner == 1
        return Cores(self.rows, self.columns, extents.channels, extents.positions, wide if depthwise else 1)

    def outputs(self, extents: Extents, row: int, column: int) -> Outputs:
        """The outputs whose sums pass through a multiplier."""
        if self.reduces_in_columns:
            served = self.served(extents, column)
            lists = torch.meshgrid(torch.arange(extents.groups), served.channels, served.positions, indexing="ij")
            return Outputs(*(one.reshape(-1) for one in lists))
        sizes = (extents.groups, extents.channels, extents.positions)
        group, channel, position = (torch.arange(size) for size in sizes)
        if self.dataflow == "event-driven":
            cores = self.cores(extents)
            owners = cores.core(group[:, None, None], channel[:, None], position), cores.column(group[:, None, None], channel[:, None])
        else:
            owners = position % self.rows, channel[:, None] % self.columns
        return Outputs(*((owners[0] == row) & (owners[1] == column)).expand(sizes).nonzero(as_tuple=True))

    def multiplied(self, extents: Extents, row: int) -> tuple[Tensor, int]:
        """The reduction indices that a multiplier of `row` forms products of, for each output it serves; and in how many folds it idles."""
        if not self.reduces_in_columns:
            return torch.arange(extents.depth), 0
        ks = torch.arange(extents.depth)[row :: self.rows]
        return ks, self.folds(extents) - len(ks)

    def live(self, x: Tensor, extents: Extents, axis: int) -> Tensor:
        """Where an input is multiplied at all: 1 or 0, in its shape. `axis`: of its channels."""
        if self.skip is None:
            return torch.ones_like(x)
        there = x != 0
        if self.skip > 1:
            moved = there.movedim(axis, -1)
            beside = neighbours(extents.groups, extents.inner)
            apart = moved.reshape(*moved.shape[:-1], -1, beside)
            blocks = torch.nn.functional.pad(apart, (0, -beside % self.skip)).reshape(*apart.shape[:-1], -1, self.skip)
            merged = blocks.any(-1, keepdim=True).expand(blocks.shape).flatten(-2)[..., :beside]
            there = merged.reshape(moved.shape).movedim(-1, axis)
        return there.to(x.dtype)
