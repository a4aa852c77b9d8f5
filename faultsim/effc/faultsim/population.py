"""The bits that faults are drawn from, numbered from 0: site by site, element by element, bit by bit.

"Without replacement over the whole population" then means: different numbers below `size`. A restricted population (a stratum) keeps the
numbering of sites, so that places mean the same everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from effc.errors import ConfigError
from effc.faultsim.faults import Indices
from effc.faultsim.sites import Site

__all__ = ["Part", "Population", "whole"]


@dataclass(frozen=True)
class Part:
    """Some bits of every element of one site.

    Attributes:
        site: its index among the campaign's sites. `elements`: of the site.
        bits: bit positions, ascending.
    """

    site: int
    elements: int
    bits: tuple[int, ...]

    @property
    def size(self) -> int:
        return self.elements * len(self.bits)


class Population:
    """Numbered bits. Raises ConfigError where there are none."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(part for part in parts if part.size)
        if not self.parts:
            raise ConfigError("there is no bit to put a fault into: no site has the chosen bits")
        self._starts = np.concatenate([[0], np.cumsum([part.size for part in self.parts], dtype=np.int64)])

    @property
    def size(self) -> int:
        """How many bits."""
        return int(self._starts[-1])

    @property
    def elements(self) -> int:
        """How many numbers have a bit in it."""
        return sum(part.elements for part in self.parts)

    def locate(self, numbers: Indices) -> tuple[Indices, Indices, Indices]:
        """Sites, elements and bits of the given numbers: three arrays of their length. Numbers must be below `size`."""
        rows = np.searchsorted(self._starts, numbers, side="right") - 1
        sites, elements, bits = (np.empty(len(numbers), np.int64) for _ in range(3))
        for row in np.unique(rows):
            part, chosen = self.parts[row], rows == row
            offsets = numbers[chosen] - self._starts[row]
            sites[chosen] = part.site
            positions = offsets // len(part.bits)
            elements[chosen] = positions
            bits[chosen] = np.asarray(part.bits, np.int64)[offsets % len(part.bits)]
        return sites, elements, bits

    def restricted(self, *, sites: Sequence[int] | None = None, bits: Sequence[int] | None = None) -> Population:
        """The part of it in some sites, in some bits, or both. Raises ConfigError where nothing is left."""
        return Population(
            [
                Part(part.site, part.elements, tuple(bit for bit in part.bits if bits is None or bit in bits))
                for part in self.parts
                if sites is None or part.site in sites
            ]
        )


def whole(sites: Sequence[Site], bits: Sequence[int] | None = None, *, reach: int = 1) -> Population:
    """All bits of all sites.

    Args:
        sites: in the campaign's order.
        bits: the positions to take; None for all that a site's view has.
        reach: adjacent bits that a fault reaches upwards from its position (bursts): positions too near the top are left out.
    """
    parts = []
    for index, site in enumerate(sites):
        there = range(site.view.bits - reach + 1)
        parts.append(Part(index, site.elements, tuple(bit for bit in there if bits is None or bit in bits)))
    return Population(parts)
