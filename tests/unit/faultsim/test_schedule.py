"""How many injections of each group come next; and what is refused before any is made."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from effc.errors import ConfigError
from effc.faultsim.drawing import Group
from effc.faultsim.population import Part, Population
from effc.faultsim.records import Record
from effc.faultsim.schedule import Schedule, Step
from effc.faultsim.spec import CampaignSpec, spec_of
from effc.faultsim.statistics import sample_size

SIZES = (4000, 1000, 5)


def groups(sizes: Sequence[int] = SIZES, rate: float | None = None) -> tuple[Group, ...]:
    return tuple(Group(f"bit {number}", Population([Part(0, size, (number,))]), rate) for number, size in enumerate(sizes))


def records(group: int, criticals: Sequence[int], inferences: int = 10) -> list[Record]:
    """Records with so many critical inferences of ten."""
    rest = [inferences - critical for critical in criticals]
    return [Record(group, draw, 1, 0, inferences, rest[draw], 0, critical, *[0] * 7) for draw, critical in enumerate(criticals)]


def stratified(**values: object) -> CampaignSpec:
    return spec_of({"stratify": ["bit"], **values})


def test_one_stage() -> None:
    for spec, given, expected in (
        (spec_of({"faults": 70}), groups((4000,)), (70,)),
        (spec_of({"faults": 70}), groups((50,)), (50,)),
        (spec_of({"margin": 0.05}), groups((4000,)), (sample_size(0.05, 0.95, population=4000),)),
        (spec_of({"exhaustive": True}), groups((4000,)), (4000,)),
        (spec_of({"rates": [1e-3, 0.0], "draws": 7}), groups((4000, 4000), 1e-3), (7, 7)),
    ):
        schedule = Schedule(spec, given)
        assert not schedule.is_adaptive
        assert schedule.planned() == sum(expected)
        assert schedule.next(0, None, [[] for _ in given]) == Step(expected)
        assert schedule.next(1, Step(expected), [[]] * len(given)).additional is None


def test_two_stages_a_pilot_and_neyman() -> None:
    """A tenth evenly, then where it is uncertain: stratum 1 spreads as widely as can be, 0 and 2 showed nothing, 2 is used up."""
    schedule = Schedule(stratified(faults=600), groups())
    assert schedule.is_adaptive
    assert schedule.planned() == 600
    first = schedule.next(0, None, [[], [], []])
    assert first.additional == (20, 20, 5)
    seen = [records(0, [0] * 20), records(1, [0, 10] * 10), records(2, [0] * 5)]
    second = schedule.next(1, first, seen)
    assert second.additional is not None
    assert sum(second.additional) == 600 - 45
    # s_h as planned: a third of an injection more hit, a third missed. 0: n = 20 + 2/3, mean (1/3) / n; 1: mean 1/2
    n = 20 + 2 / 3
    mean = 1 / 3 / n
    shares = np.array([4000 * np.sqrt(mean * (1 - mean)), 1000 * 0.5])
    assert second.additional[2] == 0
    rest = np.array([3980, 980]) * shares / np.array([4000, 1000])  # of what the pilot left
    assert np.abs(np.array(second.additional[:2]) - rest / rest.sum() * 555).max() <= 1
    assert schedule.next(2, second, seen) == Step(None)


def test_strata_are_tried_a_few_times_each_or_the_campaign_says_that_it_is_too_small() -> None:
    small = Schedule(stratified(faults=25), groups())
    assert small.next(0, None, [[]] * 3).additional == (8, 8, 5)
    seen = [records(0, [0] * 8), records(1, [0] * 8), records(2, [0] * 5)]
    assert small.next(1, None, seen).additional == (2, 2, 0)
    with pytest.raises(ConfigError, match=r"24 faults are too few for 3 strata.*25 in all"):
        Schedule(stratified(faults=24), groups()).planned()
    many = Schedule(stratified(margin=0.2), groups([100] * 50))  # Leveugle asks for 24
    assert many.planned() == 500
    assert many.next(0, None, [[]] * 50).additional == (8,) * 50
    assert many.next(1, None, [records(group, [0] * 8) for group in range(50)]).additional == (2,) * 50


def test_precision_stops_and_says_why() -> None:
    schedule = Schedule(spec_of({"precision": 0.2, "most_faults": 6000}), groups((100_000,)))
    assert schedule.is_adaptive
    first = schedule.next(0, None, [[]])
    assert first.additional == (20,)
    assert schedule.planned() == 20
    generator = np.random.default_rng(0)
    hits = [10 * int(one) for one in generator.random(20_000) < 0.1]
    step, stage, taken = first, 0, 0
    while step.additional is not None:
        assert len(step.additional) == 1
        taken += step.additional[0]
        stage += 1
        step = schedule.next(stage, step, [records(0, hits[:taken])])
    assert step.decision is not None
    assert step.decision.reached
    assert "within 0.2" in step.decision.reason
    estimate = step.decision.estimate
    assert estimate is not None
    pilot, rest = np.array(hits[:20]) / 10, np.array(hits[20:taken]) / 10  # the pilot counts for its own faults alone
    assert estimate.value == pytest.approx((pilot.sum() + (100_000 - 20) * rest.mean()) / 100_000)
    assert (estimate.high - estimate.low) / 2 <= 0.2 * estimate.value
    # where nothing is ever hit, the campaign ends at most-faults
    step, stage, taken = first, 0, 0
    while step.additional is not None:
        taken += step.additional[0]
        stage += 1
        step = schedule.next(stage, step, [records(0, [0] * taken)])
    assert step.decision is not None
    assert not step.decision.reached
    assert taken == 6000
    assert "no injections are left of 6,000" in step.decision.reason


@pytest.mark.parametrize(
    ("values", "sizes"),
    [
        ({"exhaustive": True}, (1000, 1)),
        ({"faults": 1001}, (5000,)),
        ({"rates": [1e-3], "draws": 1001}, (5000,)),
        ({"stratify": ["bit"], "margin": 0.4}, (20,) * 126),
        ({"stratify": ["bit"], "precision": 0.1}, (20,) * 126),
    ],
)
def test_too_many_injections_are_refused(values: dict[str, object], sizes: tuple[int, ...]) -> None:
    rate = 1e-3 if "rates" in values else None
    with pytest.raises(ConfigError, match=r"most-faults \(1,000\)"):
        Schedule(spec_of({**values, "most_faults": 1000}), groups(sizes, rate)).planned()
