"""From a campaign's records to its summary: shares with intervals over injections, by group, layer and bit; the worst faults."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from effc.errors import counted
from effc.faultsim.campaign import Campaign
from effc.faultsim.drawing import Group
from effc.faultsim.places import Tried, cells_of, tried
from effc.faultsim.records import Record
from effc.faultsim.spec import CampaignSpec
from effc.faultsim.statistics import Estimate, Stratum, mean_interval, percentile, ratio_interval, spending, stratified, wilson
from effc.faultsim.summary import SHARES, FaultRow, GroupSummary, Summary

__all__ = ["fault_rows", "summarise"]

_WORST = 20
_PE = ("(row, column)", "(row, column)")
_IN_ARRAY = {  # of a stuck bit, and of one that flips
    "pe-product": _PE,
    "pe-sum": _PE,
    "accumulator": ("(column)", "(fold, channel, position)"),
    "sram-weight": ("(address)", "a weight's index in its tensor"),
    "sram-activation": ("(address)", "the index of a number in a sample's input of the layer"),
}


def summarise(campaign: Campaign) -> Summary:
    """The summary of what is there; of an incomplete campaign, too."""
    design, identity, spec = campaign.design, campaign.identity, campaign.design.spec
    level = spec.level
    has_labels = bool(identity["data"]["labels"]) and spec.tolerance is None
    final = campaign.schedule.is_final
    groups = tuple(
        _group(group, every, records or every, level, has_labels, final and group.rate is None and group.listed is None)
        for group, every, records in zip(design.groups, campaign.results, _beside_pilot(campaign), strict=True)
        if every
    )
    singles = list(tried(campaign))
    layers, bits, cells = cells_of(campaign, singles, level) if singles and not spec.rates else ((), (), ())
    golden = identity["golden"]
    return Summary(
        campaign=identity,
        model=identity["model"]["name"],
        view=spec.view,
        effect=spec.effect if spec.effect != "burst" else f"burst of {spec.burst} bits",
        duration=spec.duration,
        population=design.population.size,
        sites=len(design.sites),
        samples=identity["data"]["used"],
        classes=spec.tolerance is None,
        golden_accuracy=wilson(golden["correct"], golden["inferences"], level) if has_labels else None,
        groups=groups,
        overall=_overall(campaign, level, final),
        layers=layers,
        bits=bits,
        cells=cells,
        worst=_worst(campaign, singles) if not spec.rates else (),
        complete=campaign.complete,
        planned=campaign.planned,
        done=sum(map(len, campaign.results)),
        notes=tuple(_notes(campaign, singles)),
    )


def fault_rows(campaign: Campaign) -> Iterator[FaultRow]:
    """One row a fault, for campaigns of single faults and of lists, in the order of their numbers."""
    for one in tried(campaign):
        yield from _rows(campaign, one)


def _group(group: Group, every: Sequence[Record], records: Sequence[Record], level: float, labels: bool, final: bool) -> GroupSummary:
    """Counts are of `every` injection, shares of `records`, those without the pilot."""
    size = group.population.size if final else None
    accuracies = _shares(records, "correct")
    right = np.array([record.golden_correct for record in records], np.float64)
    lost = np.array([min(record.lost, record.golden_correct) for record in records], np.float64)
    return GroupSummary(
        name=group.name,
        rate=group.rate,
        population=group.population.size,
        injections=len(every),
        empty=sum(record.flips + record.silent == 0 for record in every),
        flips=sum(record.flips for record in every),
        silent=sum(record.silent for record in every),
        inferences=sum(record.inferences for record in every),
        shares={share: mean_interval(_shares(records, share), level, population=size) for share in SHARES},
        accuracy=mean_interval(accuracies, level, population=size) if labels else None,
        accuracy_min=float(accuracies.min()) if labels else None,
        accuracy_p5=percentile(accuracies, 5) if labels else None,
        sdc1_of_correct=ratio_interval(lost, right, level) if labels and right.any() else None,
    )


def _overall(campaign: Campaign, level: float, final: bool) -> Mapping[str, Estimate]:
    """Shares over the whole population; not for sweeps over rates, whose groups are different experiments."""
    if campaign.design.spec.rates or not all(campaign.results):
        return {}
    if campaign.schedule.is_adaptive and not campaign.complete:
        return {}  # a pilot without what it was for weighs next to nothing
    finite = final and campaign.design.groups[0].listed is None
    names = [(share, share) for share in SHARES]
    if campaign.identity["data"]["labels"] and campaign.design.spec.tolerance is None:
        names.append(("accuracy", "correct"))
    decision, own = campaign.decision, level
    if decision is not None and decision.estimate is not None:
        # what was looked at several times has, at each look, an interval of the look's own level: other shares are bound to the same stop
        own = 1 - spending(level, campaign.schedule.plan.max_looks)[max(decision.look, 1) - 1]
    found = {name: replace(stratified(_strata(campaign, column), own, finite_population=finite), level=level) for name, column in names}
    if decision is not None and decision.estimate is not None:
        found["critical"] = decision.estimate
    return found


def _beside_pilot(campaign: Campaign) -> list[list[Record]]:
    """The records that a group's own numbers rest on: a pilot's decided how many there are, so pooled with them it would mislead."""
    is_pilot = campaign.schedule.is_pilot
    return [[one for one in records if not is_pilot(one.group, one.draw)] for records in campaign.results]


def _strata(campaign: Campaign, share: str) -> list[Stratum]:
    """Each group a stratum; where a pilot decided about the others, it is one of its own, of as many faults as it has injections."""
    strata = []
    for group, records in zip(campaign.design.groups, campaign.results, strict=True):
        values, pilot = _shares(records, share), min(campaign.schedule.pilot, len(records))
        if pilot:
            strata.append(Stratum(pilot, values[:pilot]))
        if len(values) > pilot:
            strata.append(Stratum(max(1, group.population.size - pilot), values[pilot:]))
    return strata


def _shares(records: Sequence[Record], name: str) -> np.ndarray:
    return np.array([getattr(record, name) / record.inferences for record in records], np.float64)


def _worst(campaign: Campaign, singles: Sequence[Tried]) -> tuple[FaultRow, ...]:
    worst = heapq.nsmallest(_WORST, singles, key=lambda one: (-one.record.critical / one.record.inferences, one.number))
    return tuple(row for one in worst if one.record.critical for row in _rows(campaign, one))[:_WORST]


def _rows(campaign: Campaign, one: Tried) -> Iterator[FaultRow]:
    record = one.record
    for site_index, element, bit in _starts(campaign, one):
        site = campaign.design.sites[site_index]
        single = one.injection.faults == 1 and site.is_stored
        yield FaultRow(
            injection=one.number,
            layer=site.layer,
            tensor=site.name,
            index=site.index(element),
            bit=bit,
            inferences=record.inferences,
            masked=record.masked,
            non_critical=record.non_critical,
            critical=record.critical,
            before=_value(site.view, record.before) if single else float("nan"),
            after=_value(site.view, record.after) if single else float("nan"),
        )


def _starts(campaign: Campaign, one: Tried) -> list[tuple[int, int, int]]:
    """Where each fault begins: of a burst, and of a random value, the lowest bit."""
    listed = campaign.design.groups[one.record.group].listed
    if listed is not None:
        sites, elements, bits = listed[one.record.draw]
        return list(zip(sites.tolist(), elements.tolist(), bits.tolist(), strict=True))
    injection = one.injection
    reached = list(zip(injection.sites.tolist(), injection.elements.tolist(), injection.bits.tolist(), strict=True))
    return reached[: injection.faults]


def _value(view: Any, word: int) -> float:
    return float(view.decode(torch.tensor([word], dtype=torch.int64).to(view.words)).double())


def _places_in_array(kinds: set[str], effect: str) -> str:
    """What the numbers of a place mean, of the kinds of sites that a campaign on an array has (`accelerator.places`)."""
    means = {kind: of_flips if effect == "flip" else of_stuck for kind, (of_stuck, of_flips) in _IN_ARRAY.items() if kind in kinds}
    those = [(meaning, " and ".join(kind for kind in means if means[kind] == meaning)) for meaning in dict.fromkeys(means.values())]
    return " ".join(f"A place in {those_kinds} is {meaning}." for meaning, those_kinds in those)


def _why_not_all(samples: int, used: int, spec: CampaignSpec) -> str:
    """Samples are left out where the spec says so, and where they do not fill the last group (`BatchGroups`)."""
    first = samples if spec.images is None else spec.images
    reasons = [f"images is {first:,}"] if first < samples else []
    if spec.tried_on is not None and used < first:
        reasons.append(f"each injection is tried on a group of {spec.tried_on:,}, with {counted(first - used, 'sample')} left over")
    return f": {'; '.join(reasons)}" if reasons else ""


def _notes(campaign: Campaign, singles: Sequence[Tried]) -> Iterator[str]:
    spec, data, array = campaign.design.spec, campaign.identity["data"], campaign.identity["model"].get("accelerator")
    if array is not None:
        yield (
            f"The network ran in int8 on {array['name']}: {array['rows']} rows of {array['columns']} multipliers, {array['dataflow']}. "
            f"{_places_in_array({site.kind for site in campaign.design.sites}, spec.effect)}"
        )
    if data["used"] < data["samples"]:
        yield f"{data['used']:,} of {data['samples']:,} samples are used{_why_not_all(data['samples'], data['used'], spec)}."
    if spec.tried_on is not None:
        yield f"Each injection was tried on {counted(spec.tried_on, 'sample')}, drawn for it; shares are over faults and samples alike."
    if campaign.decision is not None:
        yield f"Sampling ended because of {campaign.decision.reason}."
    if campaign.schedule.pilot and singles:
        yield (
            f"The first {campaign.schedule.pilot} injections of each stratum decided how many others it got. They count in the total with "
            "the weight of so many faults, and not in the numbers of a stratum, a layer or a bit."
        )
    empty = sum(record.flips + record.silent == 0 for records in campaign.results for record in records)
    if empty:
        yield f"{counted(empty, 'injection')} had no fault: at this rate and population that is to be expected, and they count."
    silent = sum(record.silent for records in campaign.results for record in records)
    if silent:
        yield f"{counted(silent, 'bit')} already had the value that the fault gives them; these faults are silent, and they count."
    if spec.effect in ("burst", "random"):
        yield "The population counts the positions of faults: a number for each random value, its lowest bit for each burst."
    if spec.view != "stored" and any(site.is_stored for site in campaign.design.sites):
        yield (
            f"Stored floating-point tensors among the sites were rounded to {spec.view} first, and the fault-free run is the one with "
            "these values; of other values only the faulty element is rounded."
        )
    if campaign.design.groups[0].listed is not None:
        yield "Intervals take the listed faults as a random sample; of a list that was chosen by its outcomes they say nothing."
    if spec.stratify and singles:
        yield "A layer's (or a bit's) share weighs the strata that it runs through by their sizes; its interval is wide where they are few."
    if not campaign.complete:
        yield f"The campaign is not complete: {sum(map(len, campaign.results)):,} of {campaign.planned:,} injections are there."
