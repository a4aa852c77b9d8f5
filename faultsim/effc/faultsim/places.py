"""Where single faults were, and what share of them was critical there: by layer, by bit, by both."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from effc.faultsim.campaign import Campaign
from effc.faultsim.faults import Injection
from effc.faultsim.records import Record
from effc.faultsim.statistics import Estimate, Floats, Stratum, mean_interval, stratified
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


@dataclass(frozen=True, eq=False)
class _Places:
    """Every injection of one fault, without the pilot, as columns: its group, layer, bit and critical share; and the bits of each place."""

    groups: NDArray[np.int64]
    layers: NDArray[np.int64]
    bits: NDArray[np.int64]
    shares: Floats
    names: tuple[str, ...]
    sizes: Mapping[tuple[int, int], int]


def cells_of(campaign: Campaign, singles: Sequence[Tried], level: float) -> tuple[tuple[Cell, ...], tuple[Cell, ...], tuple[Cell, ...]]:
    """Cells by layer, by bit, and by both, without the pilot; only injections of one fault have a place.

    Where faults were drawn evenly over a layer's bits, what fell into it is a random sample of it, and over a bit's layers likewise. In a
    campaign that is stratified the other way a layer is a domain that cuts through the strata (Cochran, Sampling Techniques, 3rd ed.,
    section 5A.14): its share is the total of values inside it over all strata, divided by its size. A plain mean would mix strata that were
    sampled unequally, and a mean over the strata that happened to hit it would leave out the others.
    """
    found = _places(campaign, singles)
    if not len(found.shares):
        return (), (), ()
    strata = campaign.design.spec.stratify if len(campaign.design.groups) > 1 else ()
    by_layer = [
        _cell(campaign, found, layer, None, level, cut="bit" in strata and "layer" not in strata) for layer in range(len(found.names))
    ]
    bits = sorted({bit for _, bit in found.sizes})
    by_bit = [_cell(campaign, found, None, bit, level, cut="layer" in strata and "bit" not in strata) for bit in bits]
    layers = tuple(cell for cell in by_layer if cell is not None)
    if campaign.design.spec.effect == "random":
        return layers, (), ()  # a fault is in all bits of its number
    both = tuple(
        _cell(campaign, found, layer, bit, level, cut=False)
        or Cell(found.names[layer], bit, found.sizes[layer, bit], 0, Estimate(0.0, 0.0, 1.0, level, 0, "no injection"))
        for layer, bit in sorted(found.sizes)
    )
    return layers, tuple(cell for cell in by_bit if cell is not None), both


def _places(campaign: Campaign, singles: Sequence[Tried]) -> _Places:
    sites = campaign.design.sites
    names = tuple(dict.fromkeys(sites[part.site].layer for part in campaign.design.population.parts))
    number = {name: index for index, name in enumerate(names)}
    sizes: dict[tuple[int, int], int] = defaultdict(int)
    for part in campaign.design.population.parts:
        for bit in part.bits:
            sizes[number[sites[part.site].layer], bit] += part.elements
    kept = [
        (one.record.group, number[sites[int(one.injection.sites[0])].layer], int(one.injection.bits[0]), one.record)
        for one in singles
        if one.injection.faults == 1 and not campaign.schedule.is_pilot(one.record.group, one.record.draw)
    ]
    columns = np.array([(group, layer, bit) for group, layer, bit, _ in kept], np.int64).reshape(-1, 3).T
    shares = np.array([record.critical / record.inferences for *_, record in kept], np.float64)
    return _Places(columns[0], columns[1], columns[2], shares, names, sizes)


def _cell(campaign: Campaign, found: _Places, layer: int | None, bit: int | None, level: float, *, cut: bool) -> Cell | None:
    """A place; None where no injection was in it. `cut`: it runs through the strata."""
    inside = np.ones(len(found.shares), bool)
    if layer is not None:
        inside &= found.layers == layer
    if bit is not None:
        inside &= found.bits == bit
    if not inside.any():
        return None
    size = sum(count for place, count in found.sizes.items() if layer in (None, place[0]) and bit in (None, place[1]))
    if cut:
        estimate = _domain(campaign, found, inside, size, level)
    elif (layer is None) != (bit is None) and len(campaign.design.groups) > 1 and len(campaign.design.spec.stratify) > 1:
        estimate = _over_strata(campaign, found, inside, level)
    else:
        final = campaign.schedule.is_final and campaign.design.groups[0].listed is None
        exact = final and not campaign.schedule.is_adaptive and campaign.complete and int(inside.sum()) <= size
        estimate = mean_interval(found.shares[inside], level, population=size if exact else None)
    name = None if layer is None else found.names[layer]
    return Cell(name, bit, size, int(inside.sum()), estimate)


def _over_strata(campaign: Campaign, found: _Places, inside: NDArray[np.bool_], level: float) -> Estimate:
    """A layer (or bit) that is made of whole strata."""
    groups = np.unique(found.groups[inside])
    return stratified(
        [Stratum(campaign.design.groups[group].population.size, found.shares[inside & (found.groups == group)]) for group in groups], level
    )


def _domain(campaign: Campaign, found: _Places, inside: NDArray[np.bool_], size: int, level: float) -> Estimate:
    values = np.where(inside, found.shares, 0.0)
    strata = [
        Stratum(group.population.size, values[found.groups == index])
        for index, group in enumerate(campaign.design.groups)
        if (found.groups == index).any()
    ]
    total = stratified(strata, level)
    scale = sum(stratum.size for stratum in strata) / size
    return Estimate(
        min(1.0, total.value * scale),
        min(1.0, total.low * scale),
        min(1.0, total.high * scale),
        level,
        int(inside.sum()),
        f"domain of a stratified sample, {total.method}",
    )
