"""How many injections of each group come next: a function of the campaign and of the results so far, and of nothing else.

Most campaigns are one stage. Two go on from what they saw: a stratified one of a given size spends a tenth evenly and the rest by Neyman's
rule, and one with a precision goes on until it is reached (`effc.faultsim.statistics.sequential`).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from effc.errors import ConfigError, counted
from effc.faultsim.drawing import Group
from effc.faultsim.records import Record
from effc.faultsim.spec import CampaignSpec
from effc.faultsim.statistics.allocation import neyman, planning_deviations
from effc.faultsim.statistics.bounds import Moments
from effc.faultsim.statistics.sample_size import sample_size
from effc.faultsim.statistics.sequential import Decision, Plan, next_stage

__all__ = ["Schedule", "Step", "critical_shares"]

_PILOT_SHARE = 0.1
_PILOT_LEAST = 8  # injections a stratum
_PILOT = 20  # the same, of a campaign that goes on until it knows enough
_LEAST = 2  # beside the pilot: one says nothing about spread


@dataclass(frozen=True)
class Step:
    """One stage.

    Attributes:
        additional: injections of each group; None when the campaign is over.
        decision: of a campaign with a precision.
    """

    additional: tuple[int, ...] | None
    decision: Decision | None = None


@dataclass(frozen=True)
class Schedule:
    """The stages of a campaign.

    Attributes:
        spec: what was asked for. `groups`: what it draws from.
    """

    spec: CampaignSpec
    groups: tuple[Group, ...]

    @property
    def is_adaptive(self) -> bool:
        """Whether a later stage depends on the results of an earlier one: such a campaign cannot be cut into shards."""
        return self.spec.precision is not None or (bool(self.spec.stratify) and len(self.groups) > 1)

    @property
    def is_final(self) -> bool:
        """Whether an injection's value is all that there is to know of it: tried on all samples, with the one value that it can have."""
        return self.spec.tried_on is None and self.spec.effect != "random"

    @property
    def plan(self) -> Plan:
        """Of a campaign with a precision."""
        assert self.spec.precision is not None
        most = self.spec.most_faults
        return Plan(self.spec.precision, level=self.spec.level, pilot=self.pilot, max_injections=most, finite_population=self.is_final)

    @functools.cached_property
    def pilot(self) -> int:
        """Injections of each group that only decide where the others go; 0 where there are none.

        They must not be pooled with the others: see `effc.faultsim.statistics.sequential`.
        """
        if self.spec.precision is not None:
            return _PILOT
        return max(_PILOT_LEAST, round(_PILOT_SHARE * sum(self._at_once()) / len(self.groups))) if self.is_adaptive else 0

    def is_pilot(self, group: int, number: int) -> bool:
        """Whether an injection only decides where others go; not in a group that the pilot tries whole."""
        return number < self.pilot < self.groups[group].population.size

    def planned(self) -> int:
        """Injections that the campaign will make, as far as that is known before it starts. Raises ConfigError where they are too many."""
        total = sum(self._at_once())
        if total > self.spec.most_faults:
            raise ConfigError(
                f"the campaign would make {counted(total, 'injection')}, more than most-faults ({self.spec.most_faults:,}): "
                "sample with --faults, restrict it, or raise --most-faults"
            )
        return total

    def next(self, stage: int, before: Step | None, results: Sequence[Sequence[Record]]) -> Step:
        """The stage that follows.

        Args:
            stage: 0, 1, ... `before`: what this gave for the stage before. `results`: the records of every group so far.
        """
        if self.spec.precision is not None:
            return self._towards_precision(before, results)
        if stage == 0 and not self.is_adaptive:
            return Step(tuple(self._at_once()))
        if stage > 1 or not self.is_adaptive:
            return Step(None)
        total = sum(self._at_once())
        sizes = [group.population.size for group in self.groups]
        taken = [min(size, self.pilot) for size in sizes]
        if stage == 0:
            return Step(tuple(taken))
        deviations = planning_deviations(Moments.of([critical_shares(records) for records in results]))
        rest = np.array(sizes) - taken
        left = np.flatnonzero(rest)  # a stratum that the pilot used up has nothing to give
        additional = np.zeros(len(sizes), np.int64)
        if len(left):
            additional[left] = neyman(rest[left].tolist(), deviations[left], max(0, total - sum(taken)), minimum=_LEAST)
        return Step(tuple(additional.tolist()))

    def _towards_precision(self, before: Step | None, results: Sequence[Sequence[Record]]) -> Step:
        sizes = [group.population.size for group in self.groups]
        look = before.decision.look if before is not None and before.decision is not None else 0
        decision = next_stage(self.plan, sizes, [critical_shares(records) for records in results], look)
        return Step(None if decision.finished else tuple(int(count) for count in decision.additional), decision)

    def _at_once(self) -> list[int]:
        if self.spec.rates:
            return [self.spec.draws] * len(self.groups)
        if self.spec.precision is not None:
            return [min(self.pilot, group.population.size) for group in self.groups]
        whole = sum(group.most or 0 for group in self.groups)
        if self.spec.exhaustive or self.groups[0].listed is not None:
            return [group.most or 0 for group in self.groups]
        asked = self.spec.faults or sample_size(self.spec.margin, self.spec.level, population=whole)
        if len(self.groups) == 1:
            return [min(asked, whole)]
        least = sum(min(_PILOT_LEAST + _LEAST, group.population.size) for group in self.groups)
        if self.spec.faults is not None and asked < least:
            raise ConfigError(
                f"{counted(asked, 'fault')} are too few for {counted(len(self.groups), 'stratum', 'strata')}: {_PILOT_LEAST + _LEAST} of "
                f"each are needed, {least:,} in all; give more --faults, or fewer strata"
            )
        total = min(max(asked, least), whole)
        return [total, *[0] * (len(self.groups) - 1)]  # only the sum is used: how it divides is seen after the pilot


def critical_shares(records: Sequence[Record]) -> np.ndarray:
    """Critical share of each injection: (n,) float64."""
    return np.array([record.critical / record.inferences for record in records], np.float64)
