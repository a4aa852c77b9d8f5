"""Where single faults were, and what share of them was critical there: by layer, by bit, by both."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from effc.faultsim.campaign import Campaign
from effc.faultsim.faults import Injection
from effc.faultsim.records import Record
from effc.faultsim.statistics import Estimate, Stratum, mean_interval, stratified
from effc.faultsim.summary import Cell

__all__ = ["Tried", "cells_of", "tried"]


class Tried(NamedTuple):
    """An injection with its record; `number` counts through the campaign, or is the list's own."""

    number: int
    injection: Injection
    record: Record


def tried(campaign: Campaign) -> Iterator[Tried]:
    """Every injection of a campaign of single faults or of a list, drawn again. Nothing for a sweep over rates."""
    if campaign.design.spec.rates:
        return
    number = 0
    for index, records in enumerate(campaign.results):
        for record in records:
            name = campaign.numbers[record.draw] if campaign.numbers else number
            yield Tried(name, campaign.design.draw(index, record.draw), record)
            number += 1


def cells_of(campaign: Campaign, singles: Sequence[Tried], level: float) -> tuple[tuple[Cell, ...], tuple[Cell, ...], tuple[Cell, ...]]:
    """Cells by layer, by bit, and by both, without the pilot; only injections of one fault have a place."""
    sites, population = campaign.design.sites, campaign.design.population
    values: dict[tuple[str, int], list[float]] = defaultdict(list)
    for one in singles:
        if one.injection.faults == 1 and not campaign.schedule.is_pilot(one.record.group, one.record.draw):
            place = (sites[int(one.injection.sites[0])].layer, int(one.injection.bits[0]))
            values[place].append(one.record.critical / one.record.inferences)
    sizes: dict[tuple[str, int], int] = defaultdict(int)
    for part in population.parts:
        for bit in part.bits:
            sizes[sites[part.site].layer, bit] += part.elements
    shares = {place: np.array(found, np.float64) for place, found in values.items()}
    # drawn evenly over a layer's bits, what fell into it is a random sample of it; and over a bit's layers likewise
    strata = campaign.design.spec.stratify if len(campaign.design.groups) > 1 else ()
    layers = [layer for layer in dict.fromkeys(layer for layer, _ in sizes) if any(place[0] == layer for place in shares)]
    bits = sorted({bit for _, bit in shares})
    by_layer = [_joined(layer, None, [p for p in sizes if p[0] == layer], sizes, shares, level, "bit" not in strata) for layer in layers]
    by_bit = [_joined(None, bit, [p for p in sizes if p[1] == bit], sizes, shares, level, "layer" not in strata) for bit in bits]
    if campaign.design.spec.effect == "random":
        return tuple(by_layer), (), ()  # a fault is in all bits of its number
    both = [
        Cell(layer, bit, sizes[layer, bit], len(shares[layer, bit]), mean_interval(shares[layer, bit], level))
        for layer in layers
        for bit in bits
        if (layer, bit) in shares
    ]
    return tuple(by_layer), tuple(by_bit), tuple(both)


def _joined(
    layer: str | None,
    bit: int | None,
    places: Sequence[tuple[str, int]],
    sizes: dict[tuple[str, int], int],
    shares: dict[tuple[str, int], np.ndarray],
    level: float,
    even: bool,
) -> Cell:
    there = [place for place in places if place in shares]
    together = np.concatenate([shares[place] for place in there])
    estimate: Estimate = mean_interval(together, level) if even else stratified([Stratum(sizes[p], shares[p]) for p in there], level)
    return Cell(layer, bit, sum(sizes[place] for place in places), len(together), estimate)
