"""Which core of an event-driven array owns an output, and which channels are one event: one rule for counting and for faults.

    unit         = a place, a group, and up to C (columns) of its output channels
    core of unit = its number modulo R (rows); units are numbered place by place for a group's first C channels, then for its next ones
                   (with a number left out between where R divides the places: else a core had the same places of all channels)
    multiplier   = of those C, the channel's number modulo C

A width of v makes v neighbouring channels of a group one event. A depthwise convolution has one channel a group: there v neighbouring
groups are one event and share a unit, whose output channels are those of all of them, one after the other, in as many turns as they need.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

__all__ = ["Cores", "neighbours"]

Number = TypeVar("Number", int, Tensor)


def neighbours(groups: int, inner: int) -> int:
    """How many channels of an input lie beside each other so that some of them may be one event.

    Args:
        groups: of a convolution. `inner`: input channels of one of them; 1 makes a grouped one depthwise.
    """
    return groups if inner == 1 else inner


@dataclass(frozen=True)
class Cores:
    """How outputs of one layer are dealt out.

    Attributes:
        rows, columns: of the array. channels: output channels of a group. places: of the result.
        together: neighbouring groups that share a unit; 1 but for depthwise convolutions on an array whose events are several channels.
    """

    rows: int
    columns: int
    channels: int
    places: int
    together: int = 1

    @property
    def chunks(self) -> int:
        """Units of one place and group."""
        return 1 if self.together > 1 else -(-self.channels // self.columns)

    def core(self, group: Number, channel: Number, place: Number) -> Number:
        """The row that owns an output. `channel`: of its group."""
        turn = self.places + (self.places % self.rows == 0)
        unit = group // self.together if self.together > 1 else group * self.chunks + channel // self.columns
        return (unit * turn + place) % self.rows

    def column(self, group: Number, channel: Number) -> Number:
        """The multiplier of the row that does it."""
        return (group % self.together * self.channels + channel) % self.columns
