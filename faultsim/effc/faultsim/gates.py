"""Budgets on a campaign's results: `sdc1 <= 0.02`, `accuracy@1e-6 >= 0.85`. The interval is judged, not the mean.

    <=   PASS where the whole interval is within the bound, FAIL where all of it is beyond, else INCONCLUSIVE
    >=   the same, mirrored

So a PASS says that the bound holds with the interval's confidence, a FAIL that it is broken with the same confidence, and too few
injections say neither. A campaign that was cut off decides nothing: which injections are missing may depend on what they did (the slow
or fatal ones are missing more often), and then no interval holds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from effc.errors import ConfigError, GateFailed, InconclusiveError, Problem, counted
from effc.faultsim.statistics.estimate import Estimate
from effc.faultsim.summary import GroupSummary, Summary

__all__ = ["METRICS", "Outcome", "Requirement", "Verdict", "check_requirements", "judge", "parse_requirements", "raise_for", "short"]

METRICS = ("accuracy", "critical", "sdc1", "sdc5", "sdc10", "sdc20", "due", "masked")
_OF_CLASSES = ("accuracy", "sdc5", "sdc10", "sdc20")  # critical and silent faults are told by a tolerance where there are no classes

Outcome = Literal["PASS", "FAIL", "INCONCLUSIVE"]
Relation = Literal["<=", ">="]

_NUMBER = r"[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]{1,3})?|\.[0-9]+(?:[eE][+-]?[0-9]{1,3})?"
_WHAT = rf"\s*(?P<metric>[A-Za-z0-9_-]+)\s*(?:@\s*(?P<rate>{_NUMBER})\s*)?"
_WORDING = re.compile(rf"{_WHAT}(?P<relation><=|>=)\s*(?P<bound>{_NUMBER})\s*(?P<percent>%?)\s*")
_EXAMPLE = 'write METRIC <= BOUND or METRIC@RATE >= BOUND, such as "sdc1 <= 0.02" or "accuracy@1e-6 >= 0.85"'
_LONGEST = 200


@dataclass(frozen=True)
class Requirement:
    """One budget.

    Attributes:
        metric: one of METRICS; all are shares in [0, 1].
        rate: the bit error rate it is about; None for the campaign as a whole.
        relation: which side of the bound is good.
        bound: in [0, 1].
    """

    metric: str
    rate: float | None
    relation: Relation
    bound: float

    @classmethod
    def parse(cls, text: str) -> Requirement:
        """Raises ConfigError, which says what is wrong and which metrics there are."""
        return parse_requirements([text])[0]

    @property
    def subject(self) -> str:
        """What is measured: `accuracy@1e-6`."""
        return self.metric if self.rate is None else f"{self.metric}@{short(self.rate)}"

    def __str__(self) -> str:
        return f"{self.subject} {self.relation} {short(self.bound)}"


@dataclass(frozen=True)
class Verdict:
    """What a campaign says of a requirement. `estimate` is None where nothing of the kind was measured; `why` is one sentence."""

    requirement: Requirement
    outcome: Outcome
    estimate: Estimate | None
    why: str


def parse_requirements(texts: Sequence[str]) -> tuple[Requirement, ...]:
    """Requirements in the order given; one given twice counts once. Raises ConfigError with every text that is not understood."""
    found: dict[Requirement, None] = {}
    problems = []
    for text in texts:
        parsed = _parse(text)
        if isinstance(parsed, Problem):
            problems.append(parsed)
        else:
            found[parsed] = None
    if problems:
        raise ConfigError(f"{counted(len(problems), 'requirement')} cannot be understood", problems)
    return tuple(found)


def check_requirements(requirements: Sequence[Requirement], rates: Sequence[float], has_labels: bool, has_classes: bool) -> None:
    """Refuse, before anything runs, what the campaign will not measure.

    Args:
        rates: bit error rates of the campaign's groups; empty for single faults.
        has_labels: the data has labels, so that there is an accuracy.
        has_classes: outputs are scores of classes, so that there is a ranking and a confidence.

    Raises:
        ConfigError: with all such requirements.
    """
    problems = [problem for one in requirements for problem in _unmeasured(one, rates, has_labels, has_classes)]
    if problems:
        raise ConfigError("the campaign does not measure what is required of it", problems)


def judge(requirement: Requirement, summary: Summary) -> Verdict:
    """Decide by the interval; INCONCLUSIVE where it lies across the bound, where it is missing, and where the campaign is not complete."""
    estimate = _measured(requirement, summary)
    if not summary.complete:
        return Verdict(
            requirement,
            "INCONCLUSIVE",
            estimate,
            f"the campaign is not complete: {summary.done:,} of {counted(summary.planned, 'injection')} were made; resume it",
        )
    if estimate is None:
        return Verdict(requirement, "INCONCLUSIVE", None, f"the campaign did not measure {requirement.subject}")
    if estimate.units < 1 or math.isnan(estimate.low) or math.isnan(estimate.high):
        return Verdict(
            requirement, "INCONCLUSIVE", estimate, f"there is no interval of {requirement.subject}: it was measured on no injection"
        )
    bound = requirement.bound
    if requirement.relation == "<=":
        good, bad = estimate.high <= bound, estimate.low > bound
    else:
        good, bad = estimate.low >= bound, estimate.high < bound
    confidence = f"the {100 * estimate.level:g} % interval, {100 * estimate.low:.4g} to {100 * estimate.high:.4g} %,"
    if good:
        return Verdict(requirement, "PASS", estimate, f"{confidence} lies within the bound")
    if bad:
        return Verdict(requirement, "FAIL", estimate, f"{confidence} lies beyond the bound")
    return Verdict(
        requirement, "INCONCLUSIVE", estimate, f"{confidence} has the bound in it; more injections in a new folder make it narrower"
    )


def raise_for(verdicts: Sequence[Verdict]) -> None:
    """Nothing where all pass.

    Raises:
        GateFailed: a requirement failed; also lists the undecided ones.
        InconclusiveError: none failed, and some could not be decided.
    """
    left = [verdict for verdict in verdicts if verdict.outcome != "PASS"]
    if not left:
        return
    failed = sum(verdict.outcome == "FAIL" for verdict in left)
    problems = [Problem(str(verdict.requirement), verdict.outcome, f"{_shown(verdict.estimate)}{verdict.why}") for verdict in left]
    if failed:
        raise GateFailed(f"{failed} of {counted(len(verdicts), 'requirement')} failed", problems)
    raise InconclusiveError(f"{len(left)} of {counted(len(verdicts), 'requirement')} could not be decided", problems)


def _parse(text: str) -> Requirement | Problem:
    where = f"requirement {text[:_LONGEST]!r}"
    match = _WORDING.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None:
        return Problem(where, "its form", "is not understood", _EXAMPLE)
    metric, rate = match["metric"].lower(), None if match["rate"] is None else float(match["rate"])
    bound = float(match["bound"]) / (100 if match["percent"] else 1)
    if metric not in METRICS:
        return Problem(where, match["metric"], "is no known metric", f"known: {', '.join(METRICS)}")
    if not 0 <= bound <= 1:
        return Problem(where, match["bound"], "is no share between 0 and 1", "write 0.02 or 2 %")
    if rate is not None and not 0 < rate < 1:
        return Problem(where, match["rate"], "is no bit error rate between 0 and 1", _EXAMPLE)
    return Requirement(metric, rate, "<=" if match["relation"] == "<=" else ">=", bound)


def _unmeasured(requirement: Requirement, rates: Sequence[float], has_labels: bool, has_classes: bool) -> list[Problem]:
    where, metric = f"requirement {str(requirement)!r}", requirement.metric
    problems = []
    if requirement.rate is None and rates:
        hint = f"write {metric}@RATE, of {_listed(rates)}"
        problems.append(Problem(where, metric, "at which bit error rate is not said, and the campaign goes through rates", hint))
    if requirement.rate is not None and not any(_same(requirement.rate, rate) for rate in rates):
        hint = f"its rates: {_listed(rates)}" if rates else f"it draws single faults: write {metric} without a rate, or give rates"
        problems.append(Problem(where, f"rate {short(requirement.rate)}", "the campaign has no such bit error rate", hint))
    if metric in _OF_CLASSES and not has_classes:
        problems.append(
            Problem(where, metric, "the outputs are not scores of classes", "critical, sdc1, due and masked do not need classes")
        )
    elif metric == "accuracy" and not has_labels:
        problems.append(
            Problem(where, metric, "the data has no labels", "add labels y to it, or require critical, which compares with golden")
        )
    return problems


def _measured(requirement: Requirement, summary: Summary) -> Estimate | None:
    groups = summary.groups
    if requirement.rate is not None:
        asked = requirement.rate
        groups = tuple(group for group in groups if group.rate is not None and _same(asked, group.rate))
    elif requirement.metric in summary.overall:
        return summary.overall[requirement.metric]
    return _of_group(requirement.metric, groups[0]) if len(groups) == 1 else None


def _of_group(metric: str, group: GroupSummary) -> Estimate | None:
    return group.accuracy if metric == "accuracy" else group.shares.get(metric)


def _same(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-9)


def _shown(estimate: Estimate | None) -> str:
    return "" if estimate is None else f"{100 * estimate.value:.4g} % from {counted(estimate.units, 'injection')}; "


def _listed(rates: Sequence[float]) -> str:
    return ", ".join(short(rate) for rate in rates)


def short(value: float) -> str:
    """A bound or a rate with all digits, written as people do: `0.85`, `1e-6`, `0`."""
    mantissa, e, exponent = repr(value).partition("e")
    return f"{mantissa.removesuffix('.0')}{e}{int(exponent) if e else ''}"
