"""The share over a whole population, from injections drawn stratum by stratum (by bit, by layer, or both).

p_hat = sum_h (N_h/N) mean_h (Cochran, Sampling Techniques, 3rd ed., equation 5.1). It stays unbiased however unequally the strata are
sampled, which is what makes it cheap: bit 30 of f32 weights carries 98 % of the critical faults and is 1/32 of the population.

The ends are those of `bounds`. Why not the textbook's: Wald's variance is 0 in the strata without a hit, most of them; Clopper-Pearson in
each, added in quadrature (MOVER; G. Y. Zou, A. Donner, Statistics in Medicine 27 (2008) 1693-1702) bounds 31 empty strata by sqrt(31) times
what any one of them can hide, and its lower end is too high where many strata have one hit each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from effc.errors import DataError, Problem
from effc.faultsim.statistics.bounds import Floats, Moments, gaps
from effc.faultsim.statistics.checks import check_level, check_values
from effc.faultsim.statistics.estimate import Estimate
from effc.faultsim.statistics.intervals import mean_interval

__all__ = ["Stratum", "stratified"]


@dataclass(frozen=True, eq=False)
class Stratum:
    """A part of the population and what was found in it.

    Attributes:
        size: N_h, faults (bits) in it.
        values: (n_h,) float64 in [0, 1]: each injection's share.
    """

    size: int
    values: Floats


def stratified(strata: Sequence[Stratum], level: float = 0.95, *, finite_population: bool = False) -> Estimate:
    """The share over all strata, weighted by their sizes.

    Args:
        strata: at least one; each with at least one injection, and better two: a single one counts with the largest possible variance.
        level: 0.95 for 95 %.
        finite_population: variances shrink by 1 - n_h/N_h. Right only where injections were drawn without replacement and each value is
            final (all images); with images sampled per injection their own variance would be lost.

    Raises:
        DataError: no strata, an empty one, values outside [0, 1], more injections than faults, or a level out of range.
    """
    check_level(level)
    if not strata:
        raise DataError("a stratified share needs at least one stratum")
    empty = [Problem(f"stratum {number}", f"size {one.size}", "it holds no fault") for number, one in enumerate(strata) if one.size < 1]
    if empty:
        raise DataError("strata without faults have no weight; leave them out", empty)
    check_values([one.values for one in strata], [one.size if finite_population else None for one in strata])
    if len(strata) == 1:
        return mean_interval(strata[0].values, level, population=strata[0].size if finite_population else None)
    sizes = np.array([one.size for one in strata], dtype=np.float64)
    moments = Moments.of([np.asarray(one.values, dtype=np.float64) for one in strata])
    weights = sizes / sizes.sum()
    shrink = np.sqrt(1 - moments.counts / sizes) if finite_population else np.ones(len(sizes))
    low, high = gaps(weights, moments, level, shrink)
    value, units = float(weights @ moments.means), int(moments.counts.sum())
    suffix = ", finite population" if finite_population else ""
    method = f"stratified mean, Gaffke's bound over injections with Fay and Feuer's added outcome{suffix}"
    return Estimate(value, max(value - low, 0.0), min(value + high, 1.0), level, units, method)
