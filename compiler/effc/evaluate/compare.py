"""The paired difference of two scores on the same samples, with a 95 % interval.

For 0/1 metrics the interval is Newcombe's for paired proportions (R. G. Newcombe, Statistics in Medicine 17 (1998) 2635-2650, method 10):
it holds its level with few samples and where the two disagree never. For others it is the bootstrap percentile interval of the mean paired
difference, with a fixed generator, so that the same scores give the same interval.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import norm

from effc.errors import InternalError
from effc.evaluate.metrics import Score

__all__ = ["Difference", "compare"]

Array = np.ndarray[Any, Any]
_Z = float(norm.ppf(0.975))
_RESAMPLES = 2000


@dataclass(frozen=True)
class Difference:
    """How much worse `after` is than `before`, in the metric's unit; negative where it is better.

    Attributes:
        drop: the estimate.
        low, high: ends of the 95 % interval.
    """

    drop: float
    low: float
    high: float


def compare(before: Score, after: Score) -> Difference:
    """The drop from `before` to `after`, both measured on the same samples in the same order."""
    if before.metric != after.metric or before.samples.shape != after.samples.shape:
        raise InternalError("scores of different metrics or samples cannot be paired")
    if before.larger_is_better:
        return _proportions(before.samples.astype(bool), after.samples.astype(bool))
    sign = after.value - before.value
    a, b = before.samples, after.samples
    generator = np.random.default_rng(0)
    draws = [generator.integers(0, len(a), len(a)) for _ in range(_RESAMPLES)]
    drops = np.array([Score(after.metric, b[rows]).value - Score(before.metric, a[rows]).value for rows in draws])
    low, high = np.quantile(drops, [0.025, 0.975])
    return Difference(sign, float(low), float(high))


def _proportions(before: Array, after: Array) -> Difference:
    n = len(before)
    both, lost = int((before & after).sum()), int((before & ~after).sum())
    won, neither = int((~before & after).sum()), int((~before & ~after).sum())
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
    return Difference(drop, drop - math.sqrt(max(down, 0)), drop + math.sqrt(max(up, 0)))


def _wilson(successes: int, n: int) -> tuple[float, float]:
    p, z = successes / n, _Z
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return centre - half, centre + half
