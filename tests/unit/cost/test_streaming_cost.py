"""Which layers of a stream are computed by pixels."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest

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


def test_the_choice_is_the_best_of_all_in_nearly_every_network() -> None:
    drawn, best_found, networks = random.Random(0), 0, 500
    for _ in range(networks):
        names, layers, shares = ["frame"], [], {}
        for place in range(drawn.randint(1, 6)):
            pixels, reads = int(10 ** drawn.uniform(1, 3.7)), tuple({names[place], names[max(0, place - drawn.randint(0, 6))]})
            name, macs = str(place), int(10 ** drawn.uniform(4, 7))
            layers.append(LayerWork(name, macs, pixels, 16 * pixels, winograd=drawn.random() < 0.5, reads=reads))
            shares[name] = drawn.choice([0.0, drawn.random(), drawn.random() ** 3, 1.0])
            names.append(name)
        found = total_time(layers, shares, choose(layers, shares, RATES), RATES)
        choices = [dict(zip(names[1:], one, strict=True)) for one in itertools.product((True, False), repeat=len(layers))]
        assert found <= min(total_time(layers, shares, dict.fromkeys(names[1:], one), RATES) for one in (True, False))
        best_found += found <= 1.0001 * min(total_time(layers, shares, one, RATES) for one in choices)
    assert best_found >= 0.99 * networks
