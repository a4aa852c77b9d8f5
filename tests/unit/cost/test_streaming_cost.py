"""Which layers of a stream are computed by pixels."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effc.cost.streaming import STANDARD, LayerWork, choose, dense_time, kept_time, sparse_time, stream_rates, total_time

RATES = replace(STANDARD, macs=100.0, depthwise=20.0, moves=10.0, winograd=2.0, efficiency=0.75, launch=3000.0, listing=0.5, compare=0.3)
BIG = LayerWork("a", macs=10_000_000, pixels=1000, elements=32_000, reads=("frame",))


def test_times_are_those_of_the_formulas() -> None:
    assert dense_time(BIG, RATES) == 100_000
    assert dense_time(replace(BIG, winograd=True), RATES) == 50_000
    assert dense_time(replace(BIG, depthwise=True), RATES) == 500_000
    assert dense_time(replace(BIG, macs=0), RATES) == 3200
    assert sparse_time(replace(BIG, winograd=True), 0.3, RATES) == pytest.approx(3000 + 500 + 0.3 * 5 * 1000 + 40_000)
    assert kept_time(BIG, RATES) == pytest.approx(9600)
    narrow = replace(STANDARD, macs=STANDARD.macs / 4, depthwise=STANDARD.depthwise / 4, moves=STANDARD.moves / 4)
    assert stream_rates(16) == STANDARD and stream_rates(4) == narrow


def test_a_layer_is_sparse_only_between_kept_values() -> None:
    chain = [BIG, replace(BIG, name="b", reads=("a",))]
    shares = {"a": 0.3, "b": 0.3}
    dense, sparse, kept = dense_time(BIG, RATES), sparse_time(BIG, 0.3, RATES), kept_time(BIG, RATES)
    assert total_time(chain, shares, {"a": True, "b": True}, RATES) == 2 * sparse
    assert total_time(chain, shares, {"a": False, "b": True}, RATES) == 2 * dense + kept
    assert total_time(chain, shares, {"a": True, "b": False}, RATES) == sparse + dense
    assert total_time([replace(BIG, sparse=False), chain[1]], shares, {"a": True, "b": True}, RATES) == dense + kept + sparse


def test_small_layers_and_winograds_stay_dense_where_much_changes() -> None:
    small = LayerWork("small", macs=1000, pixels=100, elements=400, reads=("frame",))
    fast = replace(BIG, name="fast", winograd=True, reads=("a",))
    late = replace(BIG, name="late", reads=("fast",))
    assert choose([small], {"small": 0.1}, RATES) == {"small": False}
    assert choose([BIG, fast], {"a": 0.4, "fast": 0.5}, RATES) == {"a": True, "fast": False}
    # Behind a layer that stays dense a truncate may still pay, for what follows it: but only behind one that loses little.
    assert choose([BIG, fast, late], {"a": 0.4, "fast": 0.5, "late": 0.01}, RATES) == {"a": True, "fast": True, "late": True}
    opaque = replace(BIG, name="fast", sparse=False, reads=("a",))
    assert choose([opaque, late], {"fast": 1.0, "late": 0.1}, RATES) == {"fast": True, "late": True}
    assert choose([opaque, late], {"fast": 1.0, "late": 0.9}, RATES) == {"fast": False, "late": False}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(10_000, 10_000_000), st.integers(10, 5000), st.floats(0, 1), st.booleans(), st.integers(0, 6)),
        min_size=1,
        max_size=6,
    )
)
def test_the_choice_is_near_the_best_of_all(drawn: list[tuple[int, int, float, bool, int]]) -> None:
    names = ["frame", *map(str, range(len(drawn)))]
    layers, shares = [], {}
    for place, (macs, pixels, share, winograd, skip) in enumerate(drawn):
        reads = tuple({names[place], names[max(0, place - skip)]})
        layers.append(LayerWork(names[place + 1], macs, pixels, 16 * pixels, winograd=winograd, reads=reads))
        shares[names[place + 1]] = share
    found = total_time(layers, shares, choose(layers, shares, RATES), RATES)
    all_choices = itertools.product((True, False), repeat=len(layers))
    best = min(total_time(layers, shares, dict(zip(names[1:], one, strict=True)), RATES) for one in all_choices)
    none = total_time(layers, shares, dict.fromkeys(names[1:], False), RATES)
    everything = total_time(layers, shares, dict.fromkeys(names[1:], True), RATES)
    assert found <= min(none, everything)
    assert found <= 1.15 * best
