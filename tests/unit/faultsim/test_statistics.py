"""Sample sizes, intervals, allocation and stages: exact values, and what must be refused."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import hypergeom

from effc.errors import ConfigError, DataError
from effc.faultsim.statistics import (
    Moments,
    Plan,
    Stratum,
    clopper_pearson,
    images_per_injection,
    mean_interval,
    next_stage,
    neyman,
    percentile,
    planning_deviations,
    ratio_interval,
    run_stages,
    sample_size,
    spending,
    stratified,
    student_interval,
    uniform_needed,
    upper_bound,
    variance_parts,
    wilson,
    without_replacement,
)

BITS = 8_668_992  # of ResNet-20's weights in f32


@pytest.mark.parametrize(
    ("confidence", "population", "p", "sizes"),
    [
        (0.95, None, 0.5, {0.05: 385, 0.01: 9_604, 0.005: 38_415, 0.001: 960_365}),
        (0.99, None, 0.5, {0.05: 664, 0.01: 16_588, 0.005: 66_349, 0.001: 1_658_725}),
        (0.99, BITS, 0.5, {0.05: 664, 0.01: 16_556, 0.005: 65_846, 0.001: 1_392_319}),
        (0.998, None, 0.5, {0.05: 955, 0.01: 23_874, 0.005: 95_496, 0.001: 2_387_384}),
        (0.99, BITS, 0.0128, {0.01: 839, 0.005: 3_353, 0.0025: 13_394, 0.001: 83_037}),
    ],
)
def test_leveugle_table(confidence, population, p, sizes):
    # rounded up throughout: 16,587.24 injections are 16,588 (published tables often round to the nearest)
    assert {margin: sample_size(margin, confidence, population=population, p=p) for margin in sizes} == sizes


def test_sample_size_names_every_wrong_argument():
    with pytest.raises(DataError, match=r"(?s)margin.*confidence.*population"):
        sample_size(1.0, 95, population=0)


def test_uniform_injections_for_a_relative_precision():
    # z^2 (1 - p) / (r^2 p) for single-image outcomes
    assert uniform_needed(0.5, 0.25, 0.1) == math.ceil(1.959963985**2 * 100)
    assert uniform_needed(0.0128, 0.0128 * 0.9872, 0.1) == 29_628


def test_no_success():
    one = clopper_pearson(0, 300)
    assert (one.value, one.low) == (0, 0) and one.high == pytest.approx(1 - 0.025 ** (1 / 300), rel=1e-12)
    assert upper_bound(0, 300) == pytest.approx(1 - 0.05 ** (1 / 300), rel=1e-12)
    assert 0.0099 < upper_bound(0, 300) < 3 / 300  # the rule of three
    z = 1.959963984540054
    assert wilson(0, 300).low == 0 and wilson(0, 300).high == pytest.approx(z * z / (300 + z * z), rel=1e-12)
    assert clopper_pearson(300, 300).low == pytest.approx(0.025 ** (1 / 300), rel=1e-12) and clopper_pearson(300, 300).high == 1


def test_ten_of_a_hundred():
    # R. G. Newcombe, Statistics in Medicine 17 (1998) 857-872, prints such values
    exact, score = clopper_pearson(10, 100), wilson(10, 100)
    assert (round(exact.low, 4), round(exact.high, 4)) == (0.0490, 0.1762)
    assert (round(score.low, 4), round(score.high, 4)) == (0.0552, 0.1744)


def test_outcomes_of_zero_and_one_are_clopper_pearson():
    values = np.array([1.0] * 3 + [0.0] * 97)
    assert mean_interval(values) == clopper_pearson(3, 100)


@pytest.mark.parametrize(
    "values",
    [
        np.array([0.0] * 97 + [0.1, 0.5, 0.9]),
        np.array([0.917] * 98 + [0.1, 0.3]),
        np.linspace(0, 1, 41) ** 2,
        np.array([0.917] * 100),
    ],
    ids=["rare shares", "accuracies with two crashes", "spread", "all equal"],
)
def test_mean_interval_is_gaffkes_bound(values):
    # by its definition: Dirichlet weights on the values and one more at the end of the range
    weights = np.random.default_rng(0).dirichlet(np.ones(len(values) + 1), 40_000)
    low = np.quantile(weights @ np.append(values, 0.0), 0.025)
    high = np.quantile(weights @ np.append(values, 1.0), 0.975)
    got = mean_interval(values)
    assert got.units == len(values) and got.value == values.mean()
    assert abs(got.low - low) < 0.03 * (high - low) and abs(got.high - high) < 0.03 * (high - low)


def test_many_values_come_to_students_t():
    values = np.random.default_rng(1).random(100_000)
    ours, student = mean_interval(values), student_interval(values)
    assert (ours.high - ours.low) == pytest.approx(student.high - student.low, rel=5e-3)


def test_a_whole_population_leaves_no_doubt():
    values = np.array([0.0, 0.5, 1.0, 0.25])
    whole = mean_interval(values, population=4)
    assert whole.low == whole.value == whole.high
    half, endless = mean_interval(values, population=8), mean_interval(values)
    assert half.high - half.value == pytest.approx((endless.high - endless.value) / math.sqrt(2))
    both = stratified([Stratum(4, values), Stratum(4, values)], finite_population=True)
    assert both.low == both.value == both.high


def test_ratio():
    # equal denominators: the mean of the quotients; empty ones say nothing
    assert ratio_interval(np.array([1, 0, 0, 0]), np.array([1, 1, 1, 0])) == clopper_pearson(1, 3)
    a, b = np.array([3.0, 0, 0, 8, 1] * 40), np.array([8.0, 7, 8, 8, 5] * 40)
    got = ratio_interval(a, b)
    z = (a - a.sum() / b.sum() * b) / b.mean()
    assert got.value == a.sum() / b.sum() and got.units == 200
    assert (got.high - got.low) / 2 == pytest.approx(1.96 * z.std(ddof=1) / math.sqrt(200), rel=0.06)
    none = ratio_interval(np.zeros(200), b)
    assert none.low == 0 and 1 - 0.025 ** (1 / 200) < none.high < 1.3 * (1 - 0.025 ** (1 / 200))
    with pytest.raises(DataError, match="injection 1: 2 of 1"):
        ratio_interval(np.array([0, 2]), np.array([1, 1]))


def test_percentile():
    assert percentile(np.arange(101) / 100, 5) == pytest.approx(0.05)


def test_strata_are_weighted_by_size():
    got = stratified([Stratum(300, np.array([0.0, 1.0])), Stratum(100, np.array([1.0, 1.0, 0.5]))])
    assert got.value == pytest.approx(0.75 * 0.5 + 0.25 * 2.5 / 3) and got.units == 5


def test_strata_without_a_hit_share_one_bound():
    # The most that 32 empty strata can hide together is what one can, and not 32 times that: exp(-32 n p) >= alpha/2 for equal ones
    empty = [Stratum(1000, np.zeros(600)) for _ in range(32)]
    assert stratified(empty).low == 0
    assert stratified(empty).high == pytest.approx(1 - 0.025 ** (1 / (32 * 600)), rel=0.01)
    bit30 = Stratum(1000, np.array([1.0] * 240 + [0.0] * 360))
    alone = mean_interval(bit30.values)
    all32 = stratified([*empty[1:], bit30])
    added = (all32.high - all32.value) - (alone.high - alone.value) / 32
    assert 0 < added < 0.03 * all32.value


def test_mirrored_outcomes_have_the_mirrored_interval():
    generator = np.random.default_rng(2)
    strata = [Stratum(size, generator.beta(0.2, 1, 30)) for size in (100, 200, 300)]
    there = stratified(strata)
    back = stratified([Stratum(one.size, 1 - one.values) for one in strata])
    assert (there.low, there.high) == (pytest.approx(1 - back.high), pytest.approx(1 - back.low))


def test_bad_strata_are_all_named():
    with pytest.raises(DataError, match=r"(?s)stratum 0.*stratum 2"):
        stratified([Stratum(10, np.array([])), Stratum(10, np.array([0.5])), Stratum(10, np.array([7.0]))])


def test_neyman_by_hand():
    assert neyman([100, 100, 200], [0.1, 0.3, 0.3], 50).tolist() == [5, 15, 30]
    assert neyman([100, 100, 200], [0.1, 0.3, 0.3], 50, minimum=10).tolist() == [10, 13, 27]  # 13.3 and 26.7
    assert neyman([100, 10, 200], [0.1, 3.0, 0.3], 50).tolist() == [6, 10, 34]  # 40 in the ratio 1 : 6
    assert neyman([100, 100], [0.3, 0.3], 30, costs=[1, 4]).tolist() == [20, 10]
    assert neyman([100, 100], [0.0, 0.3], 150).tolist() == [50, 100]
    assert neyman([100, 100], [0.3, 0.3], 3).tolist() == [2, 1]


@given(
    st.lists(st.tuples(st.integers(1, 500), st.floats(0, 1), st.integers(0, 500)), min_size=1, max_size=12),
    st.integers(0, 3000),
    st.integers(0, 40),
)
def test_neyman_keeps_its_promises(strata, total, minimum):
    sizes = np.array([one[0] for one in strata])
    taken = np.minimum([one[2] for one in strata], sizes)
    got = neyman(sizes.tolist(), [one[1] for one in strata], total, minimum=minimum, taken=taken)
    least = np.maximum(taken, np.minimum(minimum, sizes))
    assert (got >= least).all() and (got <= sizes).all()
    assert got.sum() == max(least.sum(), min(total, sizes.sum()))


def test_a_stratum_without_a_hit_is_not_given_up():
    deviations = planning_deviations(Moments.of([np.zeros(50), np.array([0.0, 1.0] * 25)]))
    assert 0 < deviations[0] < 0.15 and deviations[1] == pytest.approx(0.5, abs=0.01)


def test_images_per_injection():
    assert images_per_injection(0.01, 0.04, 100, 4, limit=1000) == 10  # sqrt(4 x 25)
    assert images_per_injection(0.01, 0.04, 100, 4, limit=6) == 6
    assert images_per_injection(0.1, 0.1, 0, 1, limit=1000) == 1
    assert images_per_injection(0.1, 0.0, 5, 1, limit=1000) == 1
    assert images_per_injection(0.0, 0.1, 5, 1, limit=1000) == 1000


def test_variance_parts():
    assert variance_parts([4, 0], [4, 4]) == (0.5, 0.0)
    generator = np.random.default_rng(3)
    shares = generator.choice([0.0, 0.9], 20_000, p=[0.6, 0.4])
    images = generator.integers(1, 9, 20_000)
    between, within = variance_parts(generator.binomial(images, shares), images)
    assert between == pytest.approx(0.81 * 0.24, rel=0.03) and within == pytest.approx(0.4 * 0.09, rel=0.05)
    with pytest.raises(DataError, match="2 images or more"):
        variance_parts([0, 1], [1, 1])


def test_alpha_is_spent_exactly():
    assert sum(spending(0.95, 3)) == pytest.approx(0.05, rel=1e-12) and spending(0.95, 1) == (pytest.approx(0.05),)
    assert spending(0.95, 3)[0] == pytest.approx(0.045)


def test_stages_of_one_stratum():
    plan = Plan(0.1, pilot=50, max_looks=2)
    assert next_stage(plan, [10_000], [np.zeros(0)]).additional.tolist() == [50]
    assert next_stage(plan, [10_000], [np.zeros(20)]).additional.tolist() == [30]
    hits = np.array([1.0, 0.0] * 25)
    grown = next_stage(plan, [10_000], [hits])
    assert (grown.look, grown.estimate, grown.finished) == (0, None, False) and grown.additional.tolist() == [25]
    due = next_stage(plan, [10_000], [np.tile(hits, 8)])
    assert due.look == 1 and 40 < due.additional[0] < 200  # (z(4.5 %) / 0.1)^2 = 402 beside the pilot, and a margin
    end = next_stage(plan, [10_000], [np.tile(hits, 12)], 1)
    assert end.finished and end.reached and end.estimate is not None and (end.estimate.level, end.estimate.units) == (0.95, 600)
    assert "look 1 of 2, made at 95.5000%" in end.estimate.method
    missed = next_stage(plan, [10_000], [np.tile(hits, 7)], 1)
    assert not missed.finished and missed.look == 2 and missed.estimate is not None and missed.additional[0] > 100
    last = next_stage(plan, [10_000], [np.tile(hits, 7)], 2)
    assert last.finished and not last.reached and not last.additional.any()


def test_the_pilot_counts_for_its_own_faults_only():
    plan, sizes = Plan(0.1, pilot=10), [1000, 1000]
    pilot, rest = np.ones(10), np.zeros(90)
    got = next_stage(plan, sizes, [np.concatenate([pilot, rest]), rest], 1)
    assert got.estimate is not None and got.estimate.value == pytest.approx(10 / 2000)


def test_allocation_is_fixed_by_the_pilot():
    """What the main stages find scales the sample, and never favours a stratum."""
    plan, sizes = Plan(0.1, pilot=20), [50_000, 50_000]
    generator = np.random.default_rng(0)
    pilots = [np.array([1.0, 0.0] * 10), np.zeros(20)]
    shares = []
    for late in (0.0, 0.3):
        results = [np.concatenate([pilots[0], np.tile([1.0, 0.0], 40)]), np.concatenate([pilots[1], 1.0 * (generator.random(24) < late)])]
        decision = next_stage(plan, sizes, results)
        main = np.array([80, 24]) + decision.additional
        shares.append(main[0] / main.sum())
    assert shares[0] == pytest.approx(shares[1], abs=0.01)


def test_a_campaign_without_a_hit_ends_at_its_limit():
    plan = Plan(0.1, pilot=20, max_injections=1000)
    decision, results = run_stages(plan, [600, 5000], lambda counts: [np.zeros(count) for count in counts])
    assert decision.finished and not decision.reached and sum(map(len, results)) == 1000
    assert decision.estimate is not None and decision.estimate.low == 0 and 0.003 < decision.estimate.high < 0.006


def test_small_populations_are_tried_whole():
    plan = Plan(0.01, pilot=5, finite_population=True)
    decision, results = run_stages(plan, [3, 40], lambda counts: [np.tile([0.25, 0.75], 20)[:count] for count in counts])
    assert [len(one) for one in results] == [3, 40] and decision.reached and decision.estimate is not None
    assert decision.estimate.low == decision.estimate.value == decision.estimate.high


def test_stages_refuse_what_cannot_be():
    with pytest.raises(ConfigError, match=r"(?s)relative_precision.*pilot"):
        Plan(0.0, pilot=0)
    with pytest.raises(ConfigError, match="take 104 injections"):
        next_stage(Plan(0.1, pilot=50, max_injections=60), [1000, 1000], [np.zeros(0), np.zeros(0)])
    with pytest.raises(DataError, match="look 1 is due"):
        next_stage(Plan(0.1), [1000], [np.zeros(0)], 1)


@pytest.mark.parametrize("successes", [0, 1, 7, 200, 385])
def test_a_large_population_is_as_one_without_end_and_at_once(successes: int) -> None:
    """The exact interval of ten million, where it is still found, lies inside, and by nearly nothing."""
    exact = without_replacement(successes, 385, 10_000_000)
    start = time.process_time()
    large = without_replacement(successes, 385, 10**11)
    assert time.process_time() - start < 1  # exact tails would take minutes
    assert exact.method == "exact hypergeometric"
    assert large == clopper_pearson(successes, 385)
    assert large.low <= exact.low <= large.low + 2e-6 and large.high - 2e-6 <= exact.high <= large.high
    assert without_replacement(successes * 100, 38_500, 10**7 + 1).method == "exact hypergeometric"  # more than a thousandth was tried


@pytest.mark.parametrize(("population", "n"), [(20, 10), (50, 7), (100, 99), (200, 180)])
def test_without_replacement_covers_every_truth(population: int, n: int) -> None:
    """By the distribution itself: at no true count is the interval wrong more often than in 5 %."""
    ends = [without_replacement(seen, n, population) for seen in range(n + 1)]
    for hits in range(population + 1):
        chances = hypergeom.pmf(range(n + 1), population, hits, n)
        held = [end.low - 1e-12 <= hits / population <= end.high + 1e-12 for end in ends]
        assert chances[held].sum() >= 0.95 - 1e-9
    whole = without_replacement(3, population, population)
    assert (whole.low, whole.value, whole.high) == (3 / population,) * 3
