"""Two campaigns of bit error rates on the same faults, compared draw by draw: is the second network better, and by how much?

Both campaigns have the same seed, so draw k at a rate hits the same bits of the tensors that both networks have, and what only one has (the
bounds of a protection) is faulty beside that (`effc.faultsim.drawing`). The difference of the two accuracies of a draw is then free of the
luck of which bits were hit, which is most of the spread between draws; an interval of its mean is much narrower than what two separate
intervals leave open.

Two intervals of the mean difference, both over draws:

- *Student's t*: takes the mean of so many draws as nearly normal. It is the usual one, and too short where a rare draw decides.
- *Gaffke's bound* (`effc.faultsim.statistics.bounds`): takes nothing but that a difference lies in [-1, 1]. Its limits count one draw more,
  of the worst kind, so with n equal draws the one-sided 95 % limit is 3/n below the mean: a point needs 300 draws.

Campaigns of single faults are not compared: they have no accuracy of a whole network under a rate, and a fault of one may not exist in the
other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from effc.errors import ConfigError, DataError, Problem
from effc.faultsim.campaign import Campaign
from effc.faultsim.statistics import Floats, mean_interval, student_interval
from effc.faultsim.statistics.checks import check_values

__all__ = ["Comparison", "Method", "PairedDifference", "PairedInterval", "compare", "paired"]

Method = Literal["student", "gaffke"]
_LONGEST = 60  # characters of a value that a message repeats; a hash is told apart by fewer

Outcome = Literal["PASS", "FAIL", "INCONCLUSIVE"]

# What decides which faults are drawn, and on what they are judged. The batch is not among it: it follows from the size of the network.
_SPEC = ("rates", "draws", "seed", "view", "effect", "burst", "duration", "bits", "where", "layers", "ops", "images", "images-per-fault")


@dataclass(frozen=True)
class PairedInterval:
    """Where the mean difference lies, in [-1, 1].

    Attributes:
        method: in the field's words. `low`, `high`: of the two-sided interval.
        lower_limit, upper_limit: one-sided, each at the level by itself.
    """

    method: str
    low: float
    high: float
    lower_limit: float
    upper_limit: float


@dataclass(frozen=True)
class PairedDifference:
    """One rate.

    Attributes:
        rate: bit error rate. `draws`: pairs.
        first, second: mean accuracies. `difference`: second minus first.
        better, worse: draws in which the second network was right more often, less often.
        student, gaffke: intervals of the difference.
    """

    rate: float
    draws: int
    first: float
    second: float
    difference: float
    better: int
    worse: int
    student: PairedInterval
    gaffke: PairedInterval

    def no_worse(self, margin: float, by: Method = "gaffke") -> Outcome:
        """Whether the second network is worse by `margin` (a share: 0.01 is a point) at most.

        PASS where the one-sided lower limit is -margin or more, FAIL where the upper limit is below it, else INCONCLUSIVE.
        """
        interval: PairedInterval = getattr(self, by)
        if interval.lower_limit >= -margin:
            return "PASS"
        return "FAIL" if interval.upper_limit < -margin else "INCONCLUSIVE"


@dataclass(frozen=True)
class Comparison:
    """What two campaigns say together.

    Attributes:
        first, second: models, with the passes that rewrote them.
        level: of the intervals and limits.
        golden: fault-free accuracies of both, in the campaign's view.
        common: tensors (or values) whose faults are the same in both. `first_only`, `second_only`: names of those that one of them has.
        rates: one difference for each, in rising order.
    """

    first: str
    second: str
    level: float
    golden: tuple[float, float]
    common: int
    first_only: tuple[str, ...]
    second_only: tuple[str, ...]
    rates: tuple[PairedDifference, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def compare(first: Campaign, second: Campaign, level: float = 0.95) -> Comparison:
    """The paired difference of accuracy at every rate: second minus first.

    Args:
        first, second: finished campaigns of the same rates, draws, view, seed, effect and data (`read_campaign`).
        level: of the intervals, in (0.5, 1).

    Raises:
        ConfigError: they do not belong together; says everything that differs. Or the level is out of range.
    """
    _check_level(level)
    problems = [problem for which, one in (("first", first), ("second", second)) for problem in _unfit(which, one)]
    problems += _unequal(first, second)
    one, two = _streams(first), _streams(second)
    common = one.keys() & two.keys()
    problems += [
        Problem(one[key].name, f"{one[key].shown} in the first", f"{two[key].shown} in the second: its faults are others")
        for key in sorted(common)
        if one[key] != two[key]
    ]
    if not common:
        problems.append(Problem("tensors", "none of the first", "is in the second: nothing is hit by the same faults"))
    if problems:
        raise ConfigError("the two campaigns cannot be compared draw by draw", problems)
    differences = [
        paired(float(group.rate or 0.0), _accuracies(first, index), _accuracies(second, index), level)
        for index, group in enumerate(first.design.groups)
    ]
    golden = (first.identity["golden"], second.identity["golden"])
    return Comparison(
        _name(first),
        _name(second),
        level,
        (golden[0]["correct"] / golden[0]["inferences"], golden[1]["correct"] / golden[1]["inferences"]),
        len(common),
        tuple(drawn.name for key, drawn in one.items() if key not in common),
        tuple(drawn.name for key, drawn in two.items() if key not in common),
        tuple(differences),
    )


def paired(rate: float, first: Floats, second: Floats, level: float = 0.95) -> PairedDifference:
    """The same from accuracies in memory (`rate_accuracy`).

    Args:
        rate: bit error rate. `first`, `second`: accuracies of the same draws in the same order, (n,) float64 in [0, 1], n > 1.
        level: of the intervals, in (0.5, 1).

    Raises:
        ConfigError: the level is out of range. DataError: these are no pairs, fewer than two, or outside [0, 1].
    """
    _check_level(level)
    if first.shape != second.shape:
        raise DataError(f"accuracies {first.shape} and {second.shape} are no pairs")
    check_values([first, second], [None, None])
    change = second - first
    unit = (change + 1) / 2  # the intervals are of values in [0, 1]
    two, one = level, 2 * level - 1  # each end of the second misses with probability 1 - level
    intervals = []
    for make in (student_interval, mean_interval):
        both, limits = make(unit, two), make(unit, one)
        ends = (2 * end - 1 for end in (both.low, both.high, limits.low, limits.high))
        intervals.append(PairedInterval(both.method.replace("injections", "draws"), *ends))
    better, worse = int((change > 0).sum()), int((change < 0).sum())
    return PairedDifference(
        rate, len(change), float(first.mean()), float(second.mean()), float(change.mean()), better, worse, intervals[0], intervals[1]
    )


def _check_level(level: float) -> None:
    if not 0.5 < level < 1:
        raise ConfigError(f"level is {level:g}: it must be between 0.5 and 1")


def _accuracies(campaign: Campaign, group: int) -> Floats:
    return np.array([record.correct / record.inferences for record in campaign.results[group]], np.float64)


def _unfit(which: str, campaign: Campaign) -> Iterator[Problem]:
    """Why a campaign can be compared with none."""
    spec, name = campaign.design.spec, f"the {which} campaign"
    if not spec.rates:
        yield Problem(name, "its faults", "are single ones: only sweeps over bit error rates are compared", "run it with --rate")
    if not campaign.complete:
        done = sum(map(len, campaign.results))
        yield Problem(name, f"{done:,} of {campaign.planned:,} injections", "it is not complete", "run its command again: it goes on")
    if not campaign.identity["data"]["labels"] or spec.tolerance is not None:
        yield Problem(name, "accuracy", "it has none", "give data with labels, and no --tolerance")
    if spec.draws < 2:
        yield Problem(name, "one draw a rate", "says nothing about spread", "give more --draws")


def _unequal(first: Campaign, second: Campaign) -> Iterator[Problem]:
    """Everything in which the two must agree and do not."""
    kinds = [campaign.identity["model"]["kind"] for campaign in (first, second)]
    if kinds[0] != kinds[1]:
        hint = "run both by the same --executor: compiled code stores other tensors"
        yield Problem("executor", f"{kinds[0]} in the first", f"{kinds[1]} in the second", hint)
    rows = [(("data", name), label) for name, label in (("sha256", "data"), ("used", "samples"))]
    rows += [(("spec", name), name) for name in _SPEC]
    rows += [(("versions", name), f"version of {name}") for name in ("drawing", "numpy")]  # another one may draw other faults
    for (part, name), label in rows:
        one, two = first.identity[part].get(name), second.identity[part].get(name)
        if name == "rates":
            one, two = sorted(one), sorted(two)
        if one != two:
            yield Problem(label, f"{_shown(one)} in the first", f"{_shown(two)} in the second")


def _shown(value: Any) -> str:
    return "all" if value in (None, "", [], ()) else str(value)[:_LONGEST]


@dataclass(frozen=True)
class _Drawn:
    """What is drawn by itself: equal ones get the same faults. A name may differ where a protection adds values that share it."""

    name: str = field(compare=False)
    elements: int
    width: int  # bits of a number
    bits: tuple[tuple[int, ...], ...]  # those that are drawn from

    @property
    def shown(self) -> str:
        drawn = sum(map(len, self.bits))
        return f"{self.elements:,} numbers of {self.width} bits" + (f" ({drawn} are drawn from)" if drawn != self.width else "")


def _streams(campaign: Campaign) -> dict[str, _Drawn]:
    """By what names the random stream."""
    sites, bits = campaign.design.sites, dict[int, list[tuple[int, ...]]]()
    for part in campaign.design.population.parts:
        bits.setdefault(part.site, []).append(part.bits)
    return {
        sites[index].stream: _Drawn(sites[index].name, sites[index].elements, sites[index].view.bits, tuple(parts))
        for index, parts in bits.items()
    }


def _name(campaign: Campaign) -> str:
    model = campaign.identity["model"]
    passes = model.get("passes") or []
    return f"{model['name']} after {', '.join(passes)}" if passes else str(model["name"])
