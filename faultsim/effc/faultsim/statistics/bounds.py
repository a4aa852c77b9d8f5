"""Ends of the interval of a weighted mean of values in [0, 1], from each stratum's moments, whatever the values' distribution.

**One stratum.** N. Gaffke, "Three test statistics for a nonparametric one-sided hypothesis on the mean of a nonnegative variable",
Mathematical Methods of Statistics 14 (2005): the upper end is the 1 - alpha/2 quantile of sum D_i x_i, where x_0 = 1 is added to the n
values and D is Dirichlet(1, ..., 1); the lower end mirrors it with x_0 = 0. E. Learned-Miller and P. S. Thomas, arXiv 1905.06208, propose
the same. The added value stands for the outcomes that n draws may have missed. For outcomes of 0 and 1 this *is* Clopper-Pearson (the
quantile of Beta(k + 1, n - k)); with many values it comes to Student's t; in between it stays honest where t does not (one catastrophe in
a hundred draws, not seen yet). That it holds its level is conjectured there, not proven; test_coverage.py tries to break it.

**Several strata.** The total is a weighted sum of such means. One outcome is added in all, to the stratum where it moves the total most, as
M. P. Fay, E. J. Feuer, "Confidence intervals for directly standardized rates: a method based on the gamma distribution", Statistics in
Medicine 16 (1997) 791-801, do with w_M. Adding one to every stratum would add up 32 bounds that cannot all be met at once. Where no
stratum has a hit the end is that of the joint bound, sup sum W_h p_h subject to prod (1 - p_h)^n_h >= alpha/2 for small p; with one
stratum that is Clopper-Pearson's. In sparse data it is the variant that kept its level (Population Health Metrics 20 (2022),
doi:10.1186/s12963-022-00288-1).

**The quantile** is that of the Pearson type III distribution (a shifted gamma) with the sum's mean, variance and third cumulant, which add
over strata; a mean of N points with Dirichlet weights has variance m2/(N + 1) and third cumulant 2 m3/((N + 1)(N + 2)). Poisson counts and
the normal are its limits. (Strata without the added outcome take m2/(n - 1), the unbiased variance of their mean.)

With a finite population the deviations shrink by sqrt(1 - n/N), so variances shrink by Cochran's 1 - f.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincinv, ndtri

__all__ = ["Floats", "Moments", "gaps", "upper_gap"]

Floats = NDArray[np.float64]
_NEARLY_NORMAL = 1e-3  # skewness under which the gamma's shape is too large to invert; the expansion's error is its square


@dataclass(frozen=True, eq=False)
class Moments:
    """Each stratum's moments; all fields (H,) float64.

    Attributes:
        counts: injections n_h.
        means: mean of the values.
        second, third: central moments, divided by n_h.
    """

    counts: Floats
    means: Floats
    second: Floats
    third: Floats

    @classmethod
    def of(cls, strata: Sequence[Floats]) -> Moments:
        """From the values themselves; each stratum needs at least one."""
        means = np.array([values.mean() for values in strata], dtype=np.float64)
        deviations = [values - mean for values, mean in zip(strata, means, strict=True)]
        return cls(
            np.array([len(values) for values in strata], dtype=np.float64),
            means,
            np.array([(one * one).mean() for one in deviations], dtype=np.float64),
            np.array([(one * one * one).mean() for one in deviations], dtype=np.float64),
        )


def gaps(weights: Floats, moments: Moments, level: float, shrink: Floats) -> tuple[float, float]:
    """How far the ends lie below and above the weighted mean of values in [0, 1].

    Args:
        weights: W_h, (H,), adding up to 1.
        moments: of the strata.
        level: of the two-sided interval; each end misses with probability (1 - level) / 2 at most.
        shrink: sqrt(1 - n_h/N_h), (H,); ones for infinite populations.
    """
    tail = (1 - level) / 2
    low = upper_gap(weights, moments.counts, moments.means, moments.second, -moments.third, tail, shrink)
    high = upper_gap(weights, moments.counts, 1 - moments.means, moments.second, moments.third, tail, shrink)
    mean = float(weights @ moments.means)
    return min(low, mean), min(high, 1 - mean)


def upper_gap(weights: Floats, counts: Floats, headroom: Floats, second: Floats, third: Floats, tail: float, shrink: Floats) -> float:
    """How far the upper end lies above the estimate; at least 0.

    Args:
        weights, counts, second, third, shrink: as in `gaps` and `Moments`.
        headroom: from each stratum's mean up to the largest possible value, (H,).
        tail: probability of a miss at this end.
    """
    # One draw says nothing about spread, so it counts with the largest variance that values in an interval of length 1 can have.
    spread = np.where(counts > 1, second / np.maximum(counts - 1, 1), 0.25)
    skew = 2 * third / np.maximum(counts - 1, 1) ** 2
    step = headroom / (counts + 1)
    most = int(np.argmax(weights * step * shrink))
    n, delta = counts[most], step[most]
    spread[most] = (n / (n + 1) * second[most] + n * delta**2) / (n + 2)
    third_after = (n * (third[most] - 3 * delta * second[most] - delta**3) + (n * delta) ** 3) / (n + 1)
    skew[most] = 2 * third_after / ((n + 2) * (n + 3))
    scale = weights * shrink
    mean, variance, cumulant = scale[most] * delta, float(scale**2 @ spread), float(scale**3 @ skew)
    if variance <= 0:
        return max(float(mean), 0.0)
    return max(float(mean + _pearson3(variance, cumulant, tail)), 0.0)


def _pearson3(variance: float, cumulant: float, tail: float) -> float:
    """The upper `tail` quantile of the Pearson type III distribution with mean 0."""
    deviation = float(np.sqrt(variance))
    skewness = cumulant / (variance * deviation)
    if abs(skewness) < _NEARLY_NORMAL:
        z = float(ndtri(1 - tail))
        return deviation * (z + skewness / 6 * (z * z - 1))  # Cornish-Fisher
    shape = 4 / skewness**2
    quantile = gammaincinv(shape, 1 - tail) - shape if skewness > 0 else shape - gammaincinv(shape, tail)
    return deviation * float(quantile) / float(np.sqrt(shape))
