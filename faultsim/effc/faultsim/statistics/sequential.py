"""Sample until the share is known to a relative precision, and look only at the ends of stages.

**Pilot.** A fixed number of injections per stratum, from which Neyman's allocation is fixed once and for all; what is found later only
scales it. The pilot's faults then count for themselves alone: they are strata of their own, of that many faults, beside the rest of each
stratum. Pooled, the estimate would be too low: a stratum that happened to be hit early would be sampled until the hit is diluted, and one
that was not would stay at 0 (with 31 strata at 0.2 % and one at 40 %, a 95 % interval of pooled data missed the truth in 15 % of simulated
campaigns). As it is, the sample is, given the pilot, a plain stratified one.

**Stages.** The total is planned to reach the precision at the next look. Where that is far off, or nothing was hit yet, the sample first
grows by half, and again, without a look. The planned stage is run in full, then comes look 1; where it misses, the next stage tops up.

**Looks.** At look k the interval has level 1 - alpha_k, with sum alpha_k = 1 - level: Bonferroni over the looks; nine tenths of what is
left are spent at each look and the rest at the last, in the manner of K. K. G. Lan, D. L. DeMets, Biometrika 70 (1983) 659-663. So
whichever look the campaign stops at, its interval misses with probability sum alpha_k at most, if each look's own interval holds its
level. (The total depends on earlier outcomes, so it does approximately; test_coverage.py measures it.) The estimate of a decision
therefore carries `Plan.level`; its `method` names the look and that look's own level.

Everything is a pure function of the results of earlier stages: no clock, no generator. A resumed campaign calls it again with the same
results, cut to the same stages, and gets the same sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from effc.errors import ConfigError, DataError, Problem
from effc.faultsim.statistics.allocation import Counts, neyman, planning_deviations
from effc.faultsim.statistics.bounds import Floats, Moments, gaps
from effc.faultsim.statistics.checks import check_values
from effc.faultsim.statistics.estimate import Estimate
from effc.faultsim.statistics.stratified import Stratum, stratified

__all__ = ["Decision", "Plan", "next_stage", "run_stages", "spending"]

_SPENT = 0.9  # of the remaining alpha, at each look but the last
_LEAST = 2  # injections of each stratum beside the pilot: one says nothing about spread
_GROWTH = 1.5  # the first look is planned no further than this many times what is there; else more comes first, without a look
_MARGIN = 0.97  # planned half-width over wanted half-width, so that few campaigns need a second look


@dataclass(frozen=True)
class Plan:
    """What a sequential campaign is after. Raises ConfigError for numbers out of range.

    Attributes:
        relative_precision: 0.1: the interval's half-width is at most 10 % of the estimate.
        level: of the interval, over all looks together.
        pilot: injections per stratum before anything is planned (all faults of a smaller one). They decide the allocation and hardly
            count in the estimate, so they are an expense: 20 to 50 are enough to find the strata that matter.
        max_looks: looks at most. A campaign that misses the precision at the last one ends without it.
        max_injections: injections at most, in all strata together.
        finite_population: see `stratified`.
    """

    relative_precision: float
    level: float = 0.95
    pilot: int = 20
    max_looks: int = 3
    max_injections: int = 1_000_000
    finite_population: bool = False

    def __post_init__(self) -> None:
        problems = [
            Problem(name, f"{value:g}", "it must lie between 0 and 1, both excluded", "write 0.1 for 10 %")
            for name, value in (("relative_precision", self.relative_precision), ("level", self.level))
            if not 0 < value < 1
        ]
        problems += [
            Problem(name, str(value), f"it must be at least {least}")
            for name, value, least in (
                ("pilot", self.pilot, 2),
                ("max_looks", self.max_looks, 1),
                ("max_injections", self.max_injections, 1),
            )
            if value < least
        ]
        if problems:
            raise ConfigError("the sequential plan does not hold together", problems)


@dataclass(frozen=True, eq=False)
class Decision:
    """What to do next.

    Attributes:
        finished: no further injections.
        reached: the precision was met at a look.
        additional: (H,) int64: injections to add to each stratum; zeros when finished.
        look: to pass to the next call: number of the look that is due when the additional injections are in; 0 before the plan stands.
        estimate: of the look that was just made, at `Plan.level` over all looks; None where none was made.
        reason: one sentence.
    """

    finished: bool
    reached: bool
    additional: Counts
    look: int
    estimate: Estimate | None
    reason: str


def spending(level: float, looks: int) -> tuple[float, ...]:
    """alpha_k of each look; they add up to 1 - level."""
    left, alphas = 1 - level, []
    for _ in range(looks - 1):
        alphas.append(left * _SPENT)
        left -= alphas[-1]
    return (*alphas, left)


def next_stage(plan: Plan, sizes: Sequence[int], results: Sequence[Floats], look: int = 0) -> Decision:
    """The stage that follows.

    Args:
        plan: what is wanted.
        sizes: N_h, faults in each stratum. One stratum is a plain campaign.
        results: every injection's share so far, per stratum **in the order of the draws**, because the first `pilot` of each are the pilot:
            (n_h,) float64 in [0, 1]; n_h may be 0 before the pilot.
        look: the last decision's `look`; 0 at the start.

    Raises:
        DataError: lengths differ, values outside [0, 1], a look out of range, or a look without its injections.
        ConfigError: max_injections is less than the pilot and two more in each stratum.
    """
    counts = _check(plan, sizes, results, look)
    everything = np.asarray(sizes, dtype=np.int64)
    pilot = np.minimum(plan.pilot, everything)
    least = pilot + np.minimum(_LEAST, everything - pilot)
    if least.sum() > plan.max_injections:
        raise ConfigError(
            f"a pilot of {plan.pilot} in each of {len(sizes)} strata and {_LEAST} more take {least.sum():,} injections,"
            f" and max_injections is {plan.max_injections:,}: raise max_injections, lower pilot, or use fewer strata"
        )
    if bool((counts < pilot).any()):
        return Decision(False, False, np.maximum(pilot - counts, 0), 0, None, "the pilot")
    most = min(plan.max_injections, int(everything.sum()))
    if look == 0:
        decision = _planned(plan, sizes, results, counts, most, 1, None)
        if bool(decision.additional.any()):
            return decision
        look = 1  # all there is
    estimate = _estimate(plan, sizes, results, look)
    half = (estimate.high - estimate.low) / 2
    known = f"{estimate.value:.4g} +- {half:.2g}"
    nothing = np.zeros(len(sizes), dtype=np.int64)
    if half <= plan.relative_precision * estimate.value:
        return Decision(
            True, True, nothing, look, estimate, f"look {look}: {known} is within {plan.relative_precision:.3g} of the estimate"
        )
    if counts.sum() >= most:
        return Decision(True, False, nothing, look, estimate, f"look {look}: {known}, and no injections are left of {most:,}")
    if look == plan.max_looks:
        return Decision(True, False, nothing, look, estimate, f"look {look}: {known}, and it was the last look")
    return _planned(plan, sizes, results, counts, most, look + 1, estimate)


def run_stages(plan: Plan, sizes: Sequence[int], measure: Callable[[Counts], Sequence[Floats]]) -> tuple[Decision, list[Floats]]:
    """Runs a campaign to its end: `measure(additional)` gives each stratum's new values. Returns the last decision and all values."""
    results: list[Floats] = [np.zeros(0) for _ in sizes]
    decision = next_stage(plan, sizes, results)
    while not decision.finished:
        new = measure(decision.additional)
        results = [np.concatenate(pair) for pair in zip(results, new, strict=True)]
        decision = next_stage(plan, sizes, results, decision.look)
    return decision, results


def _estimate(plan: Plan, sizes: Sequence[int], results: Sequence[Floats], look: int) -> Estimate:
    own = 1 - spending(plan.level, plan.max_looks)[look - 1]
    strata = []
    for size, values in zip(sizes, results, strict=True):
        pilot = min(plan.pilot, size)
        strata.append(Stratum(pilot, values[:pilot]))
        if size > pilot:
            strata.append(Stratum(size - pilot, values[pilot:]))
    raw = stratified(strata, own, finite_population=plan.finite_population)
    method = f"{raw.method}; look {look} of {plan.max_looks}, made at {own:.4%} so that all looks together have {plan.level:.4g}"
    return replace(raw, level=plan.level, method=method)


def _planned(
    plan: Plan, sizes: Sequence[int], results: Sequence[Floats], counts: Counts, most: int, look: int, estimate: Estimate | None
) -> Decision:
    """Tops up to the total that should meet the precision at `look`, in the pilot's proportions."""
    pilot = np.minimum(plan.pilot, np.asarray(sizes, dtype=np.int64))
    open_ = [h for h, size in enumerate(sizes) if size > plan.pilot]  # the others were tried whole
    additional = np.zeros(len(sizes), dtype=np.int64)
    if not open_:
        return Decision(False, False, additional, look, estimate, "every fault was tried")
    rest = (np.asarray(sizes, dtype=np.int64) - pilot)[open_]
    taken = (counts - pilot)[open_]
    deviations = planning_deviations(Moments.of([results[h][: plan.pilot] for h in open_]))
    moments = Moments.of([results[h] for h in open_])
    outside = int(pilot.sum())
    furthest = (most if look > 1 else min(most, int(_GROWTH * counts.sum()))) - outside
    own = 1 - spending(plan.level, plan.max_looks)[look - 1]

    def allocated(total: int) -> Counts:
        return neyman(rest.tolist(), deviations, total, minimum=_LEAST, taken=taken)

    def falls_short(total: int) -> bool:
        """Whether so many injections, if further ones behaved like these, would miss the precision at this look."""
        return _predicted(plan, sizes, rest, moments, allocated(total), own) > _MARGIN * plan.relative_precision

    low, high = int(taken.sum()), furthest
    if falls_short(high):
        low = high
    while high - low > max(1, high // 200):  # half a per cent is closer than the plan can be right
        middle = (low + high) // 2
        low, high = (middle, high) if falls_short(middle) else (low, middle)
    additional[open_] = allocated(high) - taken
    if low == high and high + outside < most:
        return Decision(False, False, additional, 0, estimate, "too little is known to plan with; more, without a look")
    return Decision(False, False, additional, look, estimate, f"look {look} is due at {int(counts.sum() + additional.sum()):,} injections")


def _predicted(plan: Plan, sizes: Sequence[int], rest: Counts, moments: Moments, counts: Counts, level: float) -> float:
    """Half-width over mean of the strata's rests, with the present moments at other counts; infinite where nothing was hit.

    Strata without a hit will have some as their counts grow, so their variance is the one that is planned with, and not 0.
    """
    n = rest.astype(np.float64)
    weights = n / float(sum(sizes))
    shrink = np.sqrt(1 - counts / n) if plan.finite_population else np.ones(len(n))
    second = np.maximum(moments.second, planning_deviations(moments) ** 2)
    low, high = gaps(weights, replace(moments, counts=counts.astype(np.float64), second=second), level, shrink)
    mean = float(weights @ moments.means)
    return (low + high) / 2 / mean if mean > 0 else np.inf


def _check(plan: Plan, sizes: Sequence[int], results: Sequence[Floats], look: int) -> Counts:
    """Injections of each stratum so far."""
    if not sizes or len(sizes) != len(results):
        raise DataError(f"{len(sizes)} strata and results of {len(results)}: there must be one array for each, and a stratum at least")
    if not 0 <= look <= plan.max_looks:
        raise DataError(f"look {look} is out of range: the plan has {plan.max_looks}; pass the last decision's")
    counts = np.array([len(values) for values in results], dtype=np.int64)
    over = [
        Problem(f"stratum {number}", f"{count} injections", f"it has {size} faults")
        for number, (count, size) in enumerate(zip(counts, sizes, strict=True))
        if size < 1 or count > size
    ]
    if over:
        raise DataError("strata do not fit the injections made in them", over)
    started = [values for values in results if len(values)]
    check_values(started, [None] * len(started))
    if look and any(count <= plan.pilot < size or count < min(plan.pilot, size) for count, size in zip(counts, sizes, strict=True)):
        raise DataError(f"look {look} is due, and a stratum has only its pilot: the results are not those of the decision before")
    return counts
