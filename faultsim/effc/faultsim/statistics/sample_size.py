"""How many injections a fixed-size campaign needs.

- `sample_size`: R. Leveugle, A. Calvez, P. Maistri, P. Vanhauwaert, "Statistical fault injection: quantified error and confidence", DATE
  2009, equation 1: n = N / (1 + e^2 (N - 1) / (t^2 p (1 - p))). The margin e is absolute: 1 % is nearly useless for a rate of 1.28 %.
- `uniform_needed`: the same for a relative margin and a measured variance between injections (W. G. Cochran, Sampling Techniques, 3rd ed.,
  equation 4.8): n = (z / r)^2 s^2 / mean^2. It is what a campaign without strata costs, to compare others with.
"""

from __future__ import annotations

import math

from scipy.special import ndtri

from effc.errors import DataError, Problem

__all__ = ["sample_size", "uniform_needed"]


def sample_size(margin: float, confidence: float, *, population: int | None = None, p: float = 0.5) -> int:
    """Injections after which a share is known to +- `margin`, rounded up.

    Args:
        margin: half-width e of the interval, absolute: 0.01 is one percentage point.
        confidence: 0.95 for 95 %; t is the normal quantile of it.
        population: possible faults N; None for infinitely many.
        p: the share that is expected; 0.5 asks for the most injections.

    Raises:
        DataError: an argument is out of its range; all such are listed.
    """
    problems = _fractions(margin=margin, confidence=confidence, p=p)
    if population is not None and population < 1:
        problems.append(Problem("population", str(population), "a population has at least one fault", "leave it out for an infinite one"))
    if problems:
        raise DataError("no sample size follows from these numbers", problems)
    infinite = float(ndtri((1 + confidence) / 2)) ** 2 * p * (1 - p) / margin**2
    if population is None:
        return math.ceil(infinite)
    return math.ceil(population / (1 + (population - 1) / infinite))


def uniform_needed(mean: float, variance: float, relative_precision: float, level: float = 0.95) -> int:
    """Injections drawn uniformly after which the mean is known to +- `relative_precision` of itself, by the normal approximation.

    Args:
        mean: mean share over injections.
        variance: variance of the shares between injections; p (1 - p) where each is tried on one image.
        relative_precision: 0.1 for +- 10 %.
        level: 0.95 for 95 %.

    Raises:
        DataError: an argument is out of its range; all such are listed.
    """
    problems = _fractions(relative_precision=relative_precision, level=level)
    if not 0 < mean <= 1:
        problems.append(Problem("mean", f"{mean:g}", "a relative precision needs a mean above 0, and shares are at most 1"))
    if not 0 <= variance <= 0.25:
        problems.append(Problem("variance", f"{variance:g}", "shares in [0, 1] have a variance of 0 to 0.25"))
    if problems:
        raise DataError("no sample size follows from these numbers", problems)
    return max(1, math.ceil((float(ndtri((1 + level) / 2)) / (relative_precision * mean)) ** 2 * variance))


def _fractions(**arguments: float) -> list[Problem]:
    return [
        Problem(name, f"{value:g}", "it must lie between 0 and 1, both excluded", "write 0.01 for 1 %")
        for name, value in arguments.items()
        if not 0 < value < 1
    ]
