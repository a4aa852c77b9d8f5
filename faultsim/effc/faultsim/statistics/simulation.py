"""Campaigns with a known truth, to see whether intervals cover it and what an answer costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from effc.errors import DataError, Problem
from effc.faultsim.statistics.allocation import Counts
from effc.faultsim.statistics.bounds import Floats
from effc.faultsim.statistics.sequential import Plan, run_stages

__all__ = ["Coverage", "StratumTruth", "simulate_campaigns", "true_share"]


@dataclass(frozen=True, eq=False)
class StratumTruth:
    """What a stratum really holds.

    Attributes:
        size: N_h, faults in it.
        shares: true critical shares that its faults have, (k,) float64 in [0, 1]: one number, or those of a measured list of faults.
        chances: how likely a drawn fault has each of them, (k,), adding up to 1; None for equally likely.
        images: images that an injection is tried on, drawn at random; None for all of them: its value is then the share itself.
    """

    size: int
    shares: Floats
    chances: Floats | None = None
    images: int | None = 1

    @property
    def mean(self) -> float:
        """The share over the whole stratum."""
        return float(np.average(self.shares, weights=self.chances))

    @property
    def variance(self) -> float:
        """Of the value of one injection: between faults, and within for the images."""
        between = float(np.average((self.shares - self.mean) ** 2, weights=self.chances))
        if self.images is None:
            return between
        return between + float(np.average(self.shares * (1 - self.shares), weights=self.chances)) / self.images

    def draw(self, count: int, generator: np.random.Generator) -> Floats:
        """Values of `count` injections, (count,), drawn with replacement: right for strata much larger than their samples."""
        if self.chances is None and len(self.shares) == 1:
            shares = np.broadcast_to(self.shares, count)
        else:
            shares = generator.choice(self.shares, size=count, p=self.chances)
        if self.images is None:
            return np.array(shares, dtype=np.float64)
        return generator.binomial(self.images, shares) / self.images


@dataclass(frozen=True)
class Coverage:
    """What many campaigns came to.

    Attributes:
        covered: campaigns whose final interval held the truth.
        campaigns: all of them.
        injections: mean number that a campaign took.
        reached: campaigns that met the precision.
        below, above: campaigns whose interval lay wholly below, or above, the truth.
        looks: mean number of looks.
    """

    covered: int
    campaigns: int
    injections: float
    reached: int
    below: int
    above: int
    looks: float


def true_share(truth: Sequence[StratumTruth]) -> float:
    """The share over the whole population."""
    sizes = np.array([one.size for one in truth], dtype=np.float64)
    return float(sizes @ np.array([one.mean for one in truth]) / sizes.sum())


def simulate_campaigns(truth: Sequence[StratumTruth], plan: Plan, campaigns: int, seed: int) -> Coverage:
    """Runs `campaigns` sequential campaigns against the truth, campaign i with the generator of (seed, i).

    Raises:
        DataError: no strata or campaigns, or shares, chances and images out of range.
        ConfigError: the plan's pilot does not fit.
    """
    _check(truth, campaigns)
    share, sizes = true_share(truth), [one.size for one in truth]
    below = above = reached = looks = 0
    injections = 0
    for campaign in range(campaigns):
        generator = np.random.default_rng((seed, campaign))

        def measure(additional: Counts, generator: np.random.Generator = generator) -> list[Floats]:
            return [one.draw(int(count), generator) for one, count in zip(truth, additional, strict=True)]

        decision, results = run_stages(plan, sizes, measure)
        injections += sum(len(values) for values in results)
        reached += decision.reached
        looks += decision.look
        assert decision.estimate is not None  # a finished campaign made a look
        below += decision.estimate.high < share
        above += decision.estimate.low > share
    return Coverage(campaigns - below - above, campaigns, injections / campaigns, reached, below, above, looks / campaigns)


def _check(truth: Sequence[StratumTruth], campaigns: int) -> None:
    problems = []
    for number, one in enumerate(truth):
        where, shares = f"stratum {number}", np.asarray(one.shares)
        if shares.ndim != 1 or not len(shares) or not bool(((shares >= 0) & (shares <= 1)).all()):
            problems.append(Problem(where, "shares", "they must be a list of numbers in [0, 1]"))
        elif one.chances is not None and (np.shape(one.chances) != shares.shape or not np.isclose(np.sum(one.chances), 1)):
            problems.append(Problem(where, "chances", "there must be one for each share, and they must add up to 1"))
        if one.images is not None and one.images < 1:
            problems.append(Problem(where, f"{one.images} images", "an injection is tried on one image at least", "None for all of them"))
    if problems or not truth or campaigns < 1:
        raise DataError("a simulation needs strata with a known truth, and at least one campaign", problems)
