"""Drawing: a pure function of (seed, group, number), without replacement, with the counts that a rate means."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from effc.errors import ConfigError
from effc.faultsim.design import Design
from effc.faultsim.drawing import DRAWING, Group, draw, permuted
from effc.faultsim.faults import Effect, Injection
from effc.faultsim.formats import stored_view
from effc.faultsim.population import Part, Population, whole
from effc.faultsim.sites import Site
from effc.faultsim.spec import spec_of


def site(name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Site:
    return Site(f"{name}.weight", f"p_{name}", name, "weight", "conv2d", shape, stored_view(dtype))


SITES = (site("a", 7, 3), site("b", 5, dtype=torch.int8), site("c", 1, 2, 2, dtype=torch.float16))
BITS = 21 * 32 + 5 * 8 + 4 * 16


def places(injection: Injection) -> list[tuple[int, int, int]]:
    return list(zip(injection.sites.tolist(), injection.elements.tolist(), injection.bits.tolist(), strict=True))


def by_name(injection: Injection, sites: tuple[Site, ...]) -> dict[str, list[tuple[int, ...]]]:
    """Element, bit and value (random faults) of every reached bit, by the site's name."""
    found: dict[str, list[tuple[int, ...]]] = {}
    values = [()] * len(injection.bits) if injection.values is None else [(int(value),) for value in injection.values]
    for (number, *place), value in zip(places(injection), values, strict=True):
        found.setdefault(sites[number].name, []).append((*place, *value))
    return found


def rate_group(rate: float, sites: tuple[Site, ...] = SITES, reach: int = 1) -> Group:
    return Group("BER", whole(sites, reach=reach), rate)


# ---- the population ------------------------------------------------------------------------------------------------------------


def test_every_bit_has_one_number() -> None:
    population = whole(SITES)
    assert population.size == BITS
    found = set(zip(*(column.tolist() for column in population.locate(np.arange(BITS))), strict=True))
    expected = {
        (number, element, bit) for number, one in enumerate(SITES) for element in range(one.elements) for bit in range(one.view.bits)
    }
    assert found == expected
    assert [column.tolist() for column in population.locate(np.array([0, 31, 32, 21 * 32, BITS - 1]))] == [
        [0, 0, 0, 1, 2],
        [0, 0, 1, 0, 3],
        [0, 31, 0, 0, 15],
    ]


def test_bits_and_reach_restrict_it() -> None:
    assert whole(SITES, (7, 30, 31)).parts == (Part(0, 21, (7, 30, 31)), Part(1, 5, (7,)), Part(2, 4, (7,)))
    assert [part.bits[-1] for part in whole(SITES, reach=4).parts] == [28, 4, 12]
    assert whole(SITES).restricted(sites=[2], bits=[15, 31]).parts == (Part(2, 4, (15,)),)
    with pytest.raises(ConfigError, match="no bit"):
        Population([Part(0, 4, ())])


# ---- single faults -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 17, 1000, 4097])
def test_permuted_is_a_bijection(size: int) -> None:
    for seed, stream in ((0, 0), (1, 0), (0, 1)):
        assert sorted(permuted(number, size, seed, stream) for number in range(size)) == list(range(size))


def test_permuted_is_roughly_uniform() -> None:
    """Where number 3 goes, over 4,000 seeds: 16 cells of 250 expected; chi-square with 15 degrees stays under its 1e-4 quantile, 44.3."""
    counts = np.bincount([permuted(3, 4097, seed) * 16 // 4097 for seed in range(4000)], minlength=16)
    assert ((counts - 250) ** 2 / 250).sum() < 44.3
    first = [permuted(number, 2**40, 7) for number in range(2000)]  # the start of a permutation is spread over all of it, in no order
    assert len(set(first)) == 2000
    assert abs(np.mean(first) / 2**40 - 0.5) < 0.03
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.08


def test_single_faults_are_drawn_without_replacement() -> None:
    group = Group("all", whole(SITES))
    drawn = [places(draw(group, 0, number, 5, SITES, "flip")) for number in range(BITS)]
    assert all(len(one) == 1 for one in drawn)
    assert len({one[0] for one in drawn}) == BITS == group.most
    in_order = replace(group, in_order=True)
    assert [places(draw(in_order, 0, number, 5, SITES, "flip"))[0][2] for number in range(33)] == [*range(32), 0]


# ---- rates ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "seed"), [(1e-3, 0), (0.05, 1)])
def test_flips_at_a_rate_are_binomial(rate: float, seed: int) -> None:
    """2,000 draws: the mean within four standard errors of N p, the variance within four of N p (1 - p)."""
    group, draws = rate_group(rate), 2000
    counts = np.array([draw(group, 0, number, seed, SITES, "flip").faults for number in range(draws)])
    mean, variance = BITS * rate, BITS * rate * (1 - rate)
    fourth = variance * (1 + 3 * variance - 6 * rate * (1 - rate)) - variance**2  # E(x - mean)^4 - variance^2
    assert abs(counts.mean() - mean) < 4 * np.sqrt(variance / draws)
    assert abs(counts.var() - variance) < 4 * np.sqrt(fourth / draws)
    if rate == 1e-3:
        assert abs((counts == 0).mean() - (1 - rate) ** BITS) < 0.045  # 46 % have no fault


def test_faults_of_a_rate_are_different_bits_all_over_the_population() -> None:
    group, hits = rate_group(0.2), np.zeros((3, 21, 32))
    for number in range(400):
        one = places(draw(group, 2, number, 9, SITES, "flip"))
        assert one == sorted(set(one))
        for place in one:
            hits[place] += 1
    real = [hits[place] for place in zip(*(column.tolist() for column in whole(SITES).locate(np.arange(BITS))), strict=True)]
    assert min(real) > 80 - 5.5 * 8 and max(real) < 80 + 5.5 * 8  # 80 expected, deviation 8


def test_small_tensors_are_hit_as_often_as_their_bits_say() -> None:
    """A scalar bound, a bias and a weight: none is left out, and no count is rounded down to zero, draw after draw, tensor by tensor."""
    sites, rate, draws = (site("bound"), site("bias", 6), site("weight", 40, 10)), 2e-4, 6000
    group, hits = rate_group(rate, sites), np.zeros(3, np.int64)
    for number in range(draws):
        hits += np.bincount(draw(group, 0, number, 11, sites, "flip").sites, minlength=3)
    for found, one in zip(hits, sites, strict=True):
        low, high = binom.interval(1 - 1e-6, draws * one.elements * 32, rate)  # exact; the bound's 32 bits: 38 expected, 16 to 69
        assert low <= found <= high, one.name
    assert int(np.floor(32 * rate)) == int(np.floor(6 * 32 * rate)) == 0  # what truncation would always give


def test_a_network_and_its_protected_version_get_the_same_faults() -> None:
    """Another order, other rates beside, and tensors on top: those that both have are hit at the same bits."""
    protected = (site("extra", 9), SITES[2], site("a_bound"), SITES[0], SITES[1])
    values = {"draws": 50, "images_per_fault": 2, "seed": 8}
    for effect, more in (("flip", {"bits": "0-29"}), ("burst", {}), ("random", {})):
        plain = Design.of(spec_of({**values, **more, "rates": [0.02], "effect": effect}), SITES, 20)
        other = Design.of(spec_of({**values, **more, "rates": [0.01, 0.02, 0.1], "effect": effect}), protected, 20)
        added = 0
        for number in range(50):
            one, two = plain.draw(0, number), other.draw(1, number)
            assert one.batch_group == two.batch_group
            found, expected = by_name(two, protected), by_name(one, SITES)
            assert {name: found.pop(name, None) for name in expected} == expected
            assert not found.keys() & {each.name for each in SITES}
            added += len(found)
        assert added  # the bound is faulty, too


def test_parts_of_one_site_are_drawn_apart() -> None:
    """Two parts of a site are no copies of each other, and together they have as many faults as their bits say."""
    split = Population([Part(0, 21, tuple(range(16))), Part(1, 5, tuple(range(8))), Part(0, 21, tuple(range(16, 32)))])
    halves = np.zeros((2, 21 * 16), np.int64)
    for number in range(300):
        one = draw(Group("BER", split, 0.1), 0, number, 2, SITES, "flip")
        assert places(one) == sorted(set(places(one)))
        for _, element, bit in (place for place in places(one) if place[0] == 0):
            halves[bit // 16, element * 16 + bit % 16] += 1
    low, high = binom.interval(1 - 1e-6, 300 * 21 * 16, 0.1)
    assert all(low <= half.sum() <= high for half in halves)
    assert abs(np.corrcoef(halves[0], halves[1]).flat[1]) < 0.25  # 336 pairs; copies would give 1


def test_what_a_seed_gives_is_kept() -> None:
    """Raise DRAWING when this changes: reports draw old campaigns again, and must not draw other faults."""
    assert DRAWING == "2"
    assert places(draw(rate_group(0.005), 0, 3, 7, SITES, "flip")) == [(0, 1, 11), (0, 2, 15), (0, 4, 27), (0, 13, 30), (0, 17, 22)]
    assert places(draw(Group("all", whole(SITES)), 0, 3, 7, SITES, "flip")) == [(0, 0, 20)]


def test_a_rate_of_zero_draws_nothing() -> None:
    assert all(draw(rate_group(0.0), 0, number, 0, SITES, "flip").faults == 0 for number in range(50))


# ---- effects -------------------------------------------------------------------------------------------------------------------


@given(st.integers(2, 8), st.integers(0, 10**6), st.sampled_from([0.001, 0.02, 0.3]))
@settings(max_examples=40, deadline=None)
def test_bursts_stay_in_their_word_and_never_toggle_twice(reach: int, seed: int, rate: float) -> None:
    one = draw(rate_group(rate, reach=reach), 0, 0, seed, SITES, "burst", reach=reach)
    found = places(one)
    assert found == sorted(set(found))
    assert all(0 <= bit < SITES[number].view.bits and element < SITES[number].elements for number, element, bit in found)
    assert len(found) <= one.faults * reach
    single = places(draw(Group("all", whole(SITES, reach=reach)), 0, 0, seed, SITES, "burst", reach=reach))
    assert single == [(single[0][0], single[0][1], single[0][2] + step) for step in range(reach)]


def test_random_values_reach_all_bits_of_their_numbers() -> None:
    population = whole(SITES, (0,))
    assert population.size == 30
    values = np.zeros(2)
    for number in range(30):
        one = draw(Group("all", population), 0, number, 3, SITES, "random")
        assert one.faults == 1
        assert one.bits.tolist() == list(range(SITES[one.sites[0]].view.bits))
        assert len(set(one.elements.tolist())) == 1
        assert one.values is not None
        values += np.bincount(one.values, minlength=2)
    assert abs(values[1] / values.sum() - 0.5) < 4 * 0.5 / np.sqrt(values.sum())
    several = draw(Group("BER", population, 0.4), 0, 0, 3, SITES, "random")
    assert places(several) == sorted(set(places(several)))
    assert several.faults == len({place[:2] for place in places(several)}) > 3
    listed = Group("listed", whole(SITES), listed=(tuple(np.array(one) for one in ([0, 0, 0], [4, 4, 5], [1, 9, 1])),))  # type: ignore[arg-type]
    again = draw(listed, 0, 0, 3, SITES, "random")
    assert again.faults == 2  # two bits of one number are one random value
    assert len(again.bits) == 64


@pytest.mark.parametrize("effect", ["flip", "stuck-at-1", "burst", "random"])
def test_an_injection_depends_on_its_number_alone(effect: Effect) -> None:
    """Made in another order, by another design, it is the same; another seed, group or number is another one."""

    def made(seed: int) -> Design:
        bits = {} if effect == "random" else {"bits": "0-30"}
        rates = [0.2, 0.3] if effect == "random" else [0.01, 0.02]
        spec = spec_of({"rates": rates, "draws": 9, "effect": effect, "seed": seed, "images_per_fault": 2, **bits})
        return Design.of(spec, SITES, 50)

    keys = [(group, number) for group in (0, 1) for number in range(9)]
    first = {key: made(4).draw(*key) for key in keys}
    design = made(4)
    for key in reversed(keys):
        other = design.draw(*key)
        assert other == first[key]
        assert other.batch_group == first[key].batch_group
        assert (other.values is None) == (first[key].values is None)
        assert other.values is None or np.array_equal(other.values, first[key].values)
    assert len({tuple(places(one)) for one in first.values()}) > 15
    assert len({one.batch_group for one in first.values()}) > 9
    assert any(made(5).draw(*key) != first[key] for key in keys)
