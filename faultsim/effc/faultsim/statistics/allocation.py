"""How to spend injections: over strata, and over images.

- `neyman`: n_h in proportion to N_h s_h / sqrt(c_h): J. Neyman, JRSS 97 (1934); W. G. Cochran, Sampling Techniques, 3rd ed., theorem 5.6.
- `planning_deviations`: s_h for it. A stratum without a hit does not have deviation 0, or it would never be looked at again.
- `images_per_injection`: Cochran's equation 10.26, m = (s_w / s_b) sqrt(c_1 / c_2), where c_1 is the cost of an injection, c_2 of an image.
- `variance_parts`: s_b^2 and s_w^2 from a pilot, by one-way analysis of variance (Cochran, section 10.6).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from effc.errors import DataError, Problem
from effc.faultsim.statistics.bounds import Floats, Moments

__all__ = ["Counts", "images_per_injection", "neyman", "planning_deviations", "variance_parts"]

Counts = NDArray[np.int64]


def neyman(
    sizes: Sequence[int],
    deviations: Sequence[float] | Floats,
    total: int,
    *,
    minimum: int = 0,
    taken: Sequence[int] | Counts | None = None,
    costs: Sequence[float] | None = None,
) -> Counts:
    """Injections per stratum, those taken already included, that make the stratified variance least for their total cost.

    Args:
        sizes: N_h, faults in each stratum; no stratum gets more.
        deviations: s_h, standard deviation of a value in each; see `planning_deviations`.
        total: injections wanted in all. Where `minimum` and `taken` already need more, the result adds up to those; where there are fewer
            faults, to all of them.
        minimum: injections that each stratum gets at least (or all its faults).
        taken: injections made already; no stratum gets fewer.
        costs: c_h, of one injection; None for equal ones.

    Returns:
        (H,) int64. Fractions go to the largest remainders, then to the first strata, so the result is a function of the arguments.

    Raises:
        DataError: lengths differ, or numbers out of range; all such are listed.
    """
    count = len(sizes)
    n = np.asarray(sizes, dtype=np.float64)
    s = np.asarray(deviations, dtype=np.float64)
    done = np.zeros(count) if taken is None else np.asarray(taken, dtype=np.float64)
    cost = np.ones(count) if costs is None else np.asarray(costs, dtype=np.float64)
    _check_strata(n, s, done, cost, total, minimum)
    low = np.maximum(done, np.minimum(minimum, n))
    wanted = min(float(total), float(n.sum()))
    if low.sum() >= wanted:
        return low.astype(np.int64)
    rates = n * s / np.sqrt(cost)
    ideal = _clipped(rates, low, n, wanted)
    if ideal.sum() < wanted - 0.5:  # strata with a deviation are used up: the rest goes by size
        ideal = _clipped(n, ideal, n, wanted)
    whole = np.floor(ideal)
    order = np.argsort(whole - ideal, kind="stable")
    whole[order[: round(wanted - whole.sum())]] += 1
    return whole.astype(np.int64)


def planning_deviations(moments: Moments) -> Floats:
    """Standard deviations to plan with, (H,): each stratum's, as if 1/H of an injection more had hit and 1/H had not.

    One further hit shared by all H strata keeps each of them in the campaign. (Agresti and Coull's prior and Jeffreys' add one or two to
    each stratum, which sends most of a campaign to strata that hold nothing.) It only steers effort; no interval uses it.
    """
    n, prior = moments.counts, 1 / len(moments.counts)
    mean = (n * moments.means + prior) / (n + 2 * prior)
    square = (n * (moments.second + moments.means**2) + prior) / (n + 2 * prior)
    return np.sqrt(np.maximum(square - mean**2, 0.0))


def images_per_injection(between: float, within: float, cost_of_injection: float, cost_of_image: float, *, limit: int) -> int:
    """Images to try each injection on, so that the campaign's variance is least for its cost.

    Args:
        between: variance of injections' true shares, `variance_parts`' first.
        within: mean variance of one inference around its injection's share, the second.
        cost_of_injection, cost_of_image: in any one unit, such as seconds.
        limit: images that there are.

    Raises:
        DataError: a variance or cost is negative, both variances are 0, the image costs nothing, or limit is under 1.
    """
    problems = [
        Problem(name, f"{value:g}", "it must be 0 or more")
        for name, value in (("between", between), ("within", within), ("cost_of_injection", cost_of_injection))
        if not value >= 0
    ]
    if not cost_of_image > 0:
        problems.append(Problem("cost_of_image", f"{cost_of_image:g}", "it must be above 0"))
    if limit < 1:
        problems.append(Problem("limit", str(limit), "there must be an image to try"))
    if problems:
        raise DataError("the images per injection cannot be chosen", problems)
    if within == 0:
        return 1  # every image says the same
    if between == 0:
        return limit  # every injection is the same
    best = math.sqrt(within / between * cost_of_injection / cost_of_image)
    lower = min(max(math.floor(best), 1), limit)

    def price(images: int) -> float:
        return (cost_of_injection + cost_of_image * images) * (between + within / images)

    return min(lower, min(lower + 1, limit), key=price)


def variance_parts(hits: Sequence[int] | Counts, inferences: Sequence[int] | Counts) -> tuple[float, float]:
    """Variance between injections' true shares and within one, (between, within), from a pilot; either is at least 0.

    Args:
        hits: (n,) critical inferences of each injection.
        inferences: (n,) inferences of each, at least 1, and more than 1 for some.

    Raises:
        DataError: under two injections, counts out of range, or one inference each: then the two cannot be told apart.
    """
    k, m = np.asarray(hits, dtype=np.float64), np.asarray(inferences, dtype=np.float64)
    if k.shape != m.shape or k.ndim != 1 or len(k) < 2:
        raise DataError(f"hits {k.shape} and inferences {m.shape} must be one number per injection each, of two injections or more")
    if not bool(((m >= 1) & (k >= 0) & (k <= m)).all()):
        raise DataError("each injection needs an inference or more, and hits between 0 and its inferences")
    units, total = len(m), float(m.sum())
    if total == units:
        raise DataError(
            "with one inference per injection, variance between and within cannot be told apart; use 2 images or more in the pilot"
        )
    shares, mean = k / m, float(k.sum()) / total
    within = float((m * shares * (1 - shares)).sum()) / (total - units)
    among = float((m * (shares - mean) ** 2).sum()) / (units - 1)
    typical = (total - float((m * m).sum()) / total) / (units - 1)  # m, where all are equal
    return max((among - within) / typical, 0.0), within


def _clipped(rates: Floats, low: Floats, high: Floats, wanted: float) -> Floats:
    """rates x one factor, cut to [low, high], so that the sum is `wanted` (or as near as the rates allow)."""
    used = rates > 1e-12 * rates.max()  # a stratum with less would get nothing anyway, and its corner overflows
    if not bool(used.any()):
        return low.copy()
    rates = np.where(used, rates / rates.max(), 0.0)
    corners = np.unique(np.concatenate([[0.0], low[used] / rates[used], high[used] / rates[used]]))
    sums = np.clip(corners[:, None] * rates, low, high).sum(axis=1)  # linear between corners
    return np.clip(float(np.interp(wanted, sums, corners)) * rates, low, high)


def _check_strata(n: Floats, s: Floats, done: Floats, cost: Floats, total: int, minimum: int) -> None:
    lengths = {len(n), len(s), len(done), len(cost)}
    if len(lengths) != 1 or 0 in lengths:
        raise DataError(f"sizes ({len(n)}), deviations ({len(s)}), taken ({len(done)}) and costs ({len(cost)}) must be one per stratum")
    problems = [
        Problem(f"stratum {number}", f"size {n[number]:g}, deviation {s[number]:g}, taken {done[number]:g}, cost {cost[number]:g}", why)
        for why, wrong in (
            ("a size is at least 1", ~(n >= 1)),
            ("a deviation is finite and 0 or more", ~((s >= 0) & np.isfinite(s))),
            ("what is taken is between 0 and the size", ~((done >= 0) & (done <= n))),
            ("a cost is finite and above 0", ~((cost > 0) & np.isfinite(cost))),
        )
        for number in np.flatnonzero(wrong)
    ]
    if total < 0 or minimum < 0:
        problems.append(Problem("total, minimum", f"{total}, {minimum}", "numbers of injections are 0 or more"))
    if problems:
        raise DataError("injections cannot be shared out", problems)
