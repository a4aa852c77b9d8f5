"""Which channels a value holds, and on which axis: what `effc.passes.channel_flow` knows of each value of a program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, fx

__all__ = ["Claim", "Groups", "Layout", "NotFollowedError", "Part", "aligned", "unknown"]


class NotFollowedError(Exception):
    """An operator that channels cannot be followed through; the message says why, to be read behind the name of a group."""


@dataclass(frozen=True)
class Part:
    """Adjacent indices on the axis of a value: `size` channels of a group, `repeat` indices each. No group: they stay as they are."""

    group: int | None
    size: int
    repeat: int = 1

    @property
    def length(self) -> int:
        return self.size * self.repeat


@dataclass(frozen=True, eq=False)
class Layout:
    """The channels of one value.

    Attributes:
        axis: where they are counted.
        parts: one after another on that axis.
        constant: the number that fills a whole channel for every input of the program, NaN where it is not known; one for each index
            on the axis.
        why: which operator made something else of channels of zeros; empty where none did.
    """

    axis: int
    parts: tuple[Part, ...]
    constant: Tensor
    why: str = ""

    @property
    def length(self) -> int:
        return len(self.constant)

    def spans(self) -> list[tuple[int, int, Part]]:
        """The parts that belong to a group, with the first index and the one behind the last."""
        found, start = [], 0
        for part in self.parts:
            if part.group is not None:
                found.append((part.group, start, part))
            start += part.length
        return found


@dataclass(frozen=True)
class Claim:
    """A stored tensor (its placeholder) is indexed by the channels of a group on one axis, by `consumer`.

    Attributes:
        role: `make` for what computes the channels, `read` for what multiplies them in the next layer, `carry` for what must shrink with
            them but is neither: bounds, thresholds, divisors, the slopes of a PReLU.
    """

    role: Literal["make", "read", "carry"]
    tensor: fx.Node
    axis: int
    start: int
    repeat: int
    group: int
    consumer: fx.Node


@dataclass
class Groups:
    """Groups that may turn out to be one: a forest, in which the oldest group of a tree stands for all."""

    names: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    _above: list[int] = field(default_factory=list)
    _pins: dict[int, str] = field(default_factory=dict)

    def new(self, name: str, size: int) -> int:
        self.names.append(name)
        self.sizes.append(size)
        self._above.append(len(self._above))
        return len(self._above) - 1

    def find(self, group: int) -> int:
        while self._above[group] != group:
            group = self._above[group]
        return group

    def join(self, one: int, other: int) -> int:
        first, last = sorted((self.find(one), self.find(other)))
        self._above[last] = first
        if last in self._pins:
            self._pins.setdefault(first, self._pins[last])
        return first

    def pin(self, group: int, why: str) -> None:
        """The channels of the group have to stay. The first reason is kept."""
        self._pins.setdefault(self.find(group), why)

    def pinned(self, group: int) -> str:
        """Why its channels have to stay; empty where they need not."""
        return self._pins.get(self.find(group), "")

    @property
    def roots(self) -> list[int]:
        return [group for group in range(len(self.names)) if self.find(group) == group]


def unknown(length: int) -> Tensor:
    """Nothing is known of so many channels."""
    return torch.full((length,), torch.nan)


def aligned(layouts: Sequence[Layout], groups: Groups) -> tuple[Part, ...]:
    """The parts of values that are combined index by index: their groups become one.

    Raises:
        NotFollowedError: their parts do not lie on each other.
    """
    first = layouts[0].parts
    for layout in layouts[1:]:
        if [(part.size, part.repeat) for part in layout.parts] != [(part.size, part.repeat) for part in first]:
            raise NotFollowedError("are combined with channels that are counted in another way")
    merged = []
    for column in zip(*(layout.parts for layout in layouts), strict=True):
        together = [part.group for part in column if part.group is not None]
        if len(together) < len(column):
            for group in together:
                groups.pin(group, "are combined with channels that have to stay")
            merged.append(Part(None, column[0].size, column[0].repeat))
            continue
        for group in together[1:]:
            groups.join(together[0], group)
        merged.append(column[0])
    return tuple(merged)
