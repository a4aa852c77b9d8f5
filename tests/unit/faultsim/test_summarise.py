"""From records made by hand to the numbers of a summary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from effc.faultsim.campaign import Campaign
from effc.faultsim.design import Design
from effc.faultsim.formats import stored_view
from effc.faultsim.records import Record
from effc.faultsim.schedule import Schedule
from effc.faultsim.sites import Site
from effc.faultsim.spec import spec_of
from effc.faultsim.statistics import mean_interval, ratio_interval
from effc.faultsim.summarise import fault_rows, summarise

F32 = stored_view(torch.float32)
SITES = (
    Site("a.weight", "p_a", "a", "weight", "conv2d", (2, 1), F32),
    Site("b.bias", "p_b", "b", "bias", "linear", (1,), F32),
    Site("c", "c", "c", "activation", "relu", (50,), F32),
)
HALF, HUGE = 0x3F000000, 0x7F000000  # 0.5, and with bit 30 flipped 2^127


def campaign(values: dict[str, Any], results: Sequence[Sequence[Record]], sites: Sequence[Site] = SITES[:2], **more: Any) -> Campaign:
    spec = spec_of(values)
    design = Design.of(spec, sites, 1)
    identity = {
        "model": {"name": "net.onnx"},
        "data": {"labels": True, "used": 10, "samples": 12},
        "golden": {"correct": 9, "inferences": 10},
    }
    done = sum(map(len, results))
    given = {"complete": True, "planned": done, "stages": 1, **more}
    return Campaign(identity, design, Schedule(spec, design.groups), tuple(map(tuple, results)), **given)


def record(group: int, draw: int, critical: int, **more: int) -> Record:
    """Ten inferences, of which some are critical and the rest masked."""
    fields = {"flips": 1, "silent": 0, "inferences": 10, "masked": 10 - critical, "non_critical": 0, "critical": critical}
    counts = {"due": 0, "sdc5": 0, "sdc10": 0, "sdc20": 0, "correct": max(0, 9 - critical), "golden_correct": 9, "lost": min(9, critical)}
    return Record(group, draw, **{**fields, **counts, **more})


RATE = [
    record(0, 0, 0, flips=0),
    record(0, 1, 5, flips=3, masked=2, non_critical=3, due=2, sdc5=1, sdc10=2, sdc20=1, correct=5, lost=2),
    record(0, 2, 0, flips=0, silent=2),
    record(0, 3, 1, flips=1, silent=1, correct=8, lost=1),
]


def test_a_rate() -> None:
    summary = summarise(campaign({"rates": [0.01, 0.02], "draws": 4}, [RATE, []], complete=False, planned=8))
    assert (summary.complete, summary.planned, summary.done) == (False, 8, 4)
    assert summary.golden_accuracy is not None
    assert summary.golden_accuracy.value == 0.9
    (group,) = summary.groups  # of the other rate nothing is known
    assert (group.name, group.rate, group.population) == ("BER 0.01", 0.01, 96)
    assert (group.injections, group.empty, group.flips, group.silent, group.inferences) == (4, 1, 4, 3, 40)
    shares = {name: round(40 * one.value) for name, one in group.shares.items()}
    assert shares == {"masked": 31, "non_critical": 3, "critical": 6, "sdc1": 4, "sdc5": 1, "sdc10": 2, "sdc20": 1, "due": 2}
    assert group.shares["critical"] == mean_interval(np.array([0, 0.5, 0, 0.1]))  # four units, not forty
    assert group.accuracy == mean_interval(np.array([0.9, 0.5, 0.9, 0.8]))
    assert (group.accuracy_min, group.accuracy_p5) == (0.5, pytest.approx(0.5 + 0.15 * 0.3))
    assert group.sdc1_of_correct == ratio_interval(np.array([0, 2, 0, 1.0]), np.array([9.0] * 4))
    assert (summary.overall, summary.layers, summary.bits, summary.worst) == ({}, (), (), ())
    assert [sentence.split(" ", 2)[:2] for sentence in summary.notes] == [
        ["10", "of"],
        ["1", "injection"],
        ["3", "bits"],
        ["The", "campaign"],
    ]


WORDS = [(HALF, HUGE), (HALF, HALF - 2**31), (HUGE, HALF), (0, -(2**31)), (0x3FC00000, 0x7FC00000), (0, 0)]
CRITICAL = [10, 0, 5, 0, 0, 10]  # a[0]: bits 30, 31; a[1]; b[0]


def exhaustive() -> Campaign:
    records = [record(0, n, critical, before=WORDS[n][0], after=WORDS[n][1]) for n, critical in enumerate(CRITICAL)]
    return campaign({"exhaustive": True, "bits": "30-31"}, [records])


def test_an_exhaustive_campaign() -> None:
    summary = summarise(exhaustive())
    assert {name: (one.value, one.low, one.high) for name, one in summary.overall.items() if name in ("critical", "masked")} == {
        "critical": (25 / 60, pytest.approx(25 / 60), pytest.approx(25 / 60)),
        "masked": (35 / 60, pytest.approx(35 / 60), pytest.approx(35 / 60)),
    }
    assert [(cell.layer, cell.population, cell.injections, cell.critical.value) for cell in summary.layers] == [
        ("a", 4, 4, pytest.approx(15 / 40)),
        ("b", 2, 2, 0.5),
    ]
    assert [(cell.bit, cell.population, cell.injections, cell.critical.value) for cell in summary.bits] == [
        (30, 3, 3, 0.5),
        (31, 3, 3, pytest.approx(1 / 3)),
    ]
    assert [(cell.layer, cell.bit, cell.population, cell.critical.value) for cell in summary.cells] == [
        ("a", 30, 2, 0.75),
        ("a", 31, 2, 0.0),
        ("b", 30, 1, 0.0),
        ("b", 31, 1, 1.0),
    ]


def test_faults_one_by_one() -> None:
    rows = list(fault_rows(exhaustive()))
    assert [(row.injection, row.layer, row.tensor, row.index, row.bit, row.critical) for row in rows] == [
        (0, "a", "a.weight", (0, 0), 30, 10),
        (1, "a", "a.weight", (0, 0), 31, 0),
        (2, "a", "a.weight", (1, 0), 30, 5),
        (3, "a", "a.weight", (1, 0), 31, 0),
        (4, "b", "b.bias", (0,), 30, 0),
        (5, "b", "b.bias", (0,), 31, 10),
    ]
    assert [(row.before, row.after) for row in rows[:3]] == [(0.5, 2.0**127), (0.5, -0.5), (2.0**127, 0.5)]
    assert math.copysign(1, rows[3].after) == -1
    assert rows[4].before == 1.5
    assert math.isnan(rows[4].after)
    assert [row.injection for row in summarise(exhaustive()).worst] == [0, 5, 2]


def test_values_have_no_words() -> None:
    (row,) = fault_rows(campaign({"faults": 1, "bits": "30"}, [[record(0, 0, 3)]], SITES[2:]))
    assert (row.layer, row.tensor) == ("c", "c")
    assert math.isnan(row.before)
    assert math.isnan(row.after)


def test_a_pilot_counts_for_its_own_faults_alone() -> None:
    """Group 0: eight faults of 50 hit in the pilot, none of twenty later. Pooled that would be 29 %; it is 8 of 50."""
    first = [record(0, draw, 10 if draw < 8 else 0) for draw in range(28)]
    second = [record(1, draw, 0) for draw in range(10)]
    stratified = campaign({"faults": 38, "stratify": ["bit"], "bits": "30-31"}, [first, second], SITES[2:], stages=2)
    assert stratified.schedule.pilot == 8
    summary = summarise(stratified)
    assert summary.overall["critical"].value == pytest.approx(0.08)
    assert summary.overall["accuracy"].value == pytest.approx(0.9 * 0.92)
    assert [(group.name, group.injections, group.shares["critical"].value) for group in summary.groups] == [
        ("bit 30", 28, 0.0),
        ("bit 31", 10, 0.0),
    ]


def test_strata_weigh_as_much_as_they_are() -> None:
    """Layers of 64 and 1,600 bits, tried equally often: the small one, all of whose faults hit, hardly counts."""
    sites = (SITES[0], SITES[2])
    results = [[record(0, draw, 10) for draw in range(30)], [record(1, draw, 0) for draw in range(30)]]
    summary = summarise(campaign({"faults": 60, "stratify": ["layer"]}, results, sites, stages=2))
    assert summary.overall["critical"].value == pytest.approx(64 / 1664)
    assert [cell.critical.value for cell in summary.layers] == [1.0, 0.0]
    # bits cut through these strata: whatever few injections fell into each, together they carry what the whole does
    assert sum(cell.population * cell.critical.value for cell in summary.bits) / 1664 == pytest.approx(64 / 1664)
    assert all(cell.critical.low <= 2 / 52 <= cell.critical.high for cell in summary.bits)


def test_random_values_have_no_bit() -> None:
    results = [[record(0, draw, 5, flips=15, silent=17) for draw in range(3)]]
    summary = summarise(campaign({"effect": "random", "exhaustive": True}, results))
    assert summary.population == 3
    assert (summary.bits, summary.cells) == ((), ())
    assert [(cell.layer, cell.critical.value) for cell in summary.layers] == [("a", 0.5), ("b", 0.5)]
    assert summary.overall["critical"].high > 0.5  # another value might have hit: trying each number once is not all there is
