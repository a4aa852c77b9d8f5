"""Do the intervals hold their level? Populations with a known truth, chosen to break them; campaigns run to their stop."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from effc.faultsim.statistics import (
    Plan,
    Stratum,
    StratumTruth,
    mean_interval,
    ratio_interval,
    simulate_campaigns,
    stratified,
    student_interval,
    true_share,
    uniform_needed,
)

# Critical share by bit of ResNet-20's f32 weights, bit 0 first: the mantissa hardly matters, bit 30 carries 98 %.
RATES = [5e-6] * 12 + [1e-5] * 11 + [1e-4, 8.7e-4, 3.2e-3, 1e-4, 1e-4, 1e-4, 1e-4, 0.401, 8.3e-4]
STRATUM = 270_896  # weights: each bit has as many faults


def single_image() -> list[StratumTruth]:
    return [StratumTruth(STRATUM, np.array([rate])) for rate in RATES]


def eight_images() -> list[StratumTruth]:
    """Faults differ: of bit 30 most do nothing or nearly everything; of the others a few do much."""
    truth = []
    for rate in RATES:
        if rate > 0.1:
            truth.append(StratumTruth(STRATUM, np.array([0.0, 0.02, 0.5, 0.9]), np.array([0.45, 0.12, 0.06, 0.37]), 8))
        else:
            truth.append(StratumTruth(STRATUM, np.array([0.0, 0.9]), np.array([1 - rate / 0.9, rate / 0.9]), 8))
    return truth


def unequal_strata() -> list[StratumTruth]:
    """Layers of very different sizes, all of them rare, and the largest with few but severe faults."""
    sizes = [432, 2_304, 4_608, 9_216, 36_864, 200_000]
    return [
        StratumTruth(size, np.array([0.0, 0.95]), np.array([1 - p, p]))
        for size, p in zip(sizes, (0.2, 0.05, 0.05, 0.03, 0.02, 0.004), strict=True)
    ]


def many_small() -> list[StratumTruth]:
    """31 strata that a pilot finds empty or not by luck; allocating by that luck and pooling it would bias the estimate."""
    return [StratumTruth(STRATUM, np.array([rate])) for rate in [0.002] * 31 + [0.4]]


def plain() -> list[StratumTruth]:
    return [StratumTruth(STRATUM * 32, np.array([0.0, 0.9]), np.array([0.98, 0.02]), 8)]


TRUTHS = {
    "single image": single_image,
    "eight images": eight_images,
    "unequal strata": unequal_strata,
    "many small": many_small,
    "one stratum": plain,
}


def least_covered(campaigns: int) -> int:
    """Covered campaigns that intervals of exactly 95 % fall short of with a probability of 0.1 % at most."""
    return int(binom.ppf(0.001, campaigns, 0.95))


@pytest.mark.parametrize("name", ["single image", pytest.param("eight images", marks=pytest.mark.slow), "many small"])
def test_campaigns_cover_the_truth(name):
    got = simulate_campaigns(TRUTHS[name](), Plan(0.1), 120, seed=7)
    assert got.covered >= least_covered(120)
    assert got.reached >= 114


@pytest.mark.slow
@pytest.mark.parametrize("name", TRUTHS)
def test_500_campaigns_cover_the_truth(name):
    got = simulate_campaigns(TRUTHS[name](), Plan(0.1), 500, seed=8)
    print(name, got)
    assert got.covered >= 0.94 * 500
    assert got.reached >= 0.95 * 500


def test_a_first_look_at_bit_30_is_cheap():
    """+-10 % of ResNet-20's rate: a few thousand single-image injections, where uniform ones need about 30,000."""
    truth = single_image()
    share = true_share(truth)
    assert share == pytest.approx(0.0127, rel=1e-2)
    assert uniform_needed(share, share * (1 - share), 0.1) > 29_000
    assert simulate_campaigns(truth, Plan(0.1), 40, seed=9).injections < 7_000


def test_simulations_repeat():
    assert simulate_campaigns(single_image(), Plan(0.2), 5, seed=1) == simulate_campaigns(single_image(), Plan(0.2), 5, seed=1)


POPULATIONS = {
    "rare, severe": (lambda g, n: 0.9 * (g.random(n) < 0.02), 0.018),
    "rare among tiny": (lambda g, n: np.where(g.random(n) < 0.02, 0.9, 1e-4 * (g.random(n) < 0.58)), 0.018 + 0.98 * 0.58e-4),
    "vanishing": (lambda g, n: 1.0 * (g.random(n) < 1e-4), 1e-4),
    "one crash in a hundred": (lambda g, n: np.where(g.random(n) < 0.01, 0.1, 0.917), 0.99 * 0.917 + 0.001),
    "many crashes": (lambda g, n: np.where(g.random(n) < 0.3, 0.1 + 0.3 * g.random(n), 0.917), 0.7 * 0.917 + 0.3 * 0.25),
    "tame": (lambda g, n: np.clip(g.normal(0.9, 0.02, n), 0, 1), 0.9),
    "one image": (lambda g, n: 1.0 * (g.random(n) < 0.4), 0.4),
    "skewed": (lambda g, n: g.beta(0.05, 1, n), 0.05 / 1.05),
}


@pytest.mark.parametrize("name", POPULATIONS)
@pytest.mark.parametrize("n", [3, 100])
def test_means_cover_the_truth(name, n):
    draw, truth = POPULATIONS[name]
    generator = np.random.default_rng(4)
    intervals = [mean_interval(draw(generator, n)) for _ in range(500)]
    assert sum(one.low <= truth <= one.high for one in intervals) >= least_covered(500)


def test_students_t_would_not_have():
    draw, truth = POPULATIONS["one crash in a hundred"]
    generator = np.random.default_rng(4)
    intervals = [student_interval(draw(generator, 100)) for _ in range(500)]
    assert sum(one.low <= truth <= one.high for one in intervals) < 0.75 * 500


@pytest.mark.parametrize("hits", [0.02, 0.3, 1.0, 3.0])
def test_strata_cover_the_truth_when_hits_are_few(hits):
    """32 strata that expect so many hits each, of unequal weight: the sum is what counts, and most strata show nothing."""
    generator = np.random.default_rng(5)
    sizes, counts = generator.integers(1_000, 20_000, 32), generator.integers(50, 400, 32)
    shares = np.minimum(hits / counts, 1)
    truth, covered = float(sizes @ shares / sizes.sum()), 0
    for _ in range(500):
        strata = [Stratum(int(size), 1.0 * (generator.random(n) < p)) for size, n, p in zip(sizes, counts, shares, strict=True)]
        got = stratified(strata)
        covered += got.low <= truth <= got.high
    assert covered >= least_covered(500)


def test_ratios_cover_the_truth():
    """SDC among images that were right: faults that are severe and rare, and 4 to 8 right images each."""
    generator, covered = np.random.default_rng(6), 0
    for _ in range(500):
        right = generator.binomial(8, 0.9, 300)
        wrong = generator.binomial(right, 0.9 * (generator.random(300) < 0.03))
        got = ratio_interval(wrong, right)
        covered += got.low <= 0.027 <= got.high
    assert covered >= least_covered(500)
