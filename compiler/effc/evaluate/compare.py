"""The paired difference of two scores on the same samples, with a 95 % interval.

Where every sample is right or wrong the interval is Newcombe's for paired proportions (R. G. Newcombe, Statistics in Medicine 17 (1998)
2635-2650, method 10): it holds its level with few samples and where the two disagree never. For other scores, and for shares of the
positions of a sequence, it is the bootstrap percentile interval of the mean paired difference, with a fixed generator, so that the same
scores give the same interval.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import norm

from effc.errors import InternalError
from effc.evaluate.metrics import Score

__all__ = ["Difference", "compare", "samples_needed"]

Array = np.ndarray[Any, Any]
_Z = float(norm.ppf(0.975))
_RESAMPLES = 2000


@dataclass(frozen=True)
class Difference:
    """How much worse `after` is than `before`, in the metric's unit; negative where it is better.

    Attributes:
        drop: the estimate.
        low, high: ends of the 95 % interval; infinite where there is none: resampling one sample says nothing.
        changed: samples of which a prediction changed, or whose score where the metric compares no predictions.
    """

    drop: float
    low: float
    high: float
    changed: int


def compare(before: Score, after: Score) -> Difference:
    """The drop from `before` to `after`, both measured on the same samples in the same order."""
    if before.metric != after.metric or before.samples.shape != after.samples.shape:
        raise InternalError("scores of different metrics or samples cannot be paired")
    changed = _changed(before, after)
    if _is_proportion(before, after):
        return Difference(*_newcombe(*_table(before, after)), changed)
    sign = -1 if before.larger_is_better else 1
    drop = sign * (after.value - before.value)
    a, b = before.samples, after.samples
    if len(a) == 1:
        return Difference(drop, -math.inf, math.inf, changed)
    generator = np.random.default_rng(0)
    draws = [generator.integers(0, len(a), len(a)) for _ in range(_RESAMPLES)]
    drops = np.array([sign * (Score(after.metric, b[rows]).value - Score(before.metric, a[rows]).value) for rows in draws])
    low, high = np.quantile(drops, [0.025, 0.975])
    return Difference(drop, float(low), float(high), changed)


def samples_needed(before: Score, after: Score, allowed: float) -> int | None:
    """About how many samples would put the whole interval at or under `allowed`, if further ones behaved like these; None for no number."""
    difference = compare(before, after)
    if difference.drop >= allowed or math.isinf(difference.high):
        return None
    size = len(before.samples)
    if not _is_proportion(before, after):
        return math.ceil(size * ((difference.high - difference.drop) / (allowed - difference.drop)) ** 2)
    table, low, high = _table(before, after), 1.0, 2.0
    while _newcombe(*(count * high for count in table))[2] > allowed:
        low, high = high, 2 * high
    while (high - low) * size > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if _newcombe(*(count * middle for count in table))[2] > allowed else (low, middle)
    return math.ceil(size * high)


def _changed(before: Score, after: Score) -> int:
    if before.choices is not None and after.choices is not None:
        return int((before.choices != after.choices).reshape(len(before.samples), -1).any(axis=1).sum())
    return int((before.samples != after.samples).sum())


def _is_proportion(before: Score, after: Score) -> bool:
    """Whether every sample is right or wrong."""
    return before.larger_is_better and all(bool(np.isin(score.samples, (0, 1)).all()) for score in (before, after))


def _table(before: Score, after: Score) -> tuple[float, float, float, float]:
    """How many samples are right in both, only before, only after, and in neither."""
    a, b = before.samples.astype(bool), after.samples.astype(bool)
    return float((a & b).sum()), float((a & ~b).sum()), float((~a & b).sum()), float((~a & ~b).sum())


def _newcombe(both: float, lost: float, won: float, neither: float) -> tuple[float, float, float]:
    """The drop and the ends of its interval."""
    n = both + lost + won + neither
    p1, p2 = (both + lost) / n, (both + won) / n
    l1, u1 = _wilson(both + lost, n)
    l2, u2 = _wilson(both + won, n)
    margins = math.sqrt((both + lost) * (won + neither) * (both + won) * (lost + neither))
    product = both * neither - lost * won
    if margins == 0:
        phi = 0.0
    elif product > 0:
        phi = max(product - n / 2, 0) / margins
    else:
        phi = product / margins
    drop = p1 - p2
    down = (p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2
    up = (p2 - l2) ** 2 - 2 * phi * (p2 - l2) * (u1 - p1) + (u1 - p1) ** 2
    return drop, drop - math.sqrt(max(down, 0)), drop + math.sqrt(max(up, 0))


def _wilson(successes: float, n: float) -> tuple[float, float]:
    p, z = successes / n, _Z
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return centre - half, centre + half
