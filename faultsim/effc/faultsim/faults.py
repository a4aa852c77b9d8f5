"""What is put into a network: places (a site, an element, a bit) that are faulty together, and what happens to each of them.

An `Injection` is one experiment. In a campaign of single faults it has one fault; a draw at a bit error rate has as many as the rate gave,
often none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["DURATIONS", "EFFECTS", "Duration", "Effect", "Indices", "Injection"]

Indices = NDArray[np.int64]
Effect = Literal["flip", "stuck-at-0", "stuck-at-1", "burst", "random"]
Duration = Literal["permanent", "transient"]

EFFECTS: tuple[Effect, ...] = ("flip", "stuck-at-0", "stuck-at-1", "burst", "random")
DURATIONS: tuple[Duration, ...] = ("permanent", "transient")


@dataclass(frozen=True, eq=False)
class Injection:
    """One experiment. Everything in it is a function of (seed, group, draw) and of the campaign's populations.

    Attributes:
        group: index of its group in the campaign: a bit error rate, a stratum, or the only one.
        draw: its number within the group, from 0.
        faults: how many faults it has: a burst or a random value is one, although it reaches several bits.
        sites, elements, bits: every bit that is reached, sorted, none twice; three arrays (k,) int64. An element is a flat index into the
            site's tensor (into one sample's, for activations). k may be 0.
        values: for the effect `random`, the value that each bit takes: (k,) bool; None for other effects.
        batch_group: which group of images it is tried on.
    """

    group: int
    draw: int
    faults: int
    sites: Indices
    elements: Indices
    bits: Indices
    batch_group: int = 0
    values: NDArray[np.bool_] | None = None

    @property
    def key(self) -> tuple[int, int]:
        """(group, draw)."""
        return self.group, self.draw

    def __eq__(self, other: Any) -> bool:
        mine, its = ((one.key, one.sites.tolist(), one.elements.tolist(), one.bits.tolist()) for one in (self, other))
        return mine == its

    def __hash__(self) -> int:
        return hash(self.key)
