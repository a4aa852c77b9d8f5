"""Bytes, energy and whole layers, against sums that were done by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from effc.cost.accelerator import Accelerator, find_accelerator
from effc.cost.accelerator.description import Energy, Skipping, Sram
from effc.cost.accelerator.energy import energy
from effc.cost.accelerator.event_driven import Events, count_events, everything
from effc.cost.accelerator.memory import Residence, Traffic, event_traffic, residence, slices, state_bytes, stationary_traffic
from effc.cost.accelerator.model import Counts, model_layers
from effc.cost.accelerator.product import Product
from effc.cost.accelerator.systolic import systolic
from effc.report.accelerator import EnergyParts

LAYER = Product("l", "linear", "l", "x", (10, 40), 1, 10, 40, 50, 500, 50, first=True, last=True)
INNER = replace(LAYER, first=False, last=False)
STAYS, NOTHING = Residence(True, True), Residence(False, False)


def dense(**sram: int) -> Accelerator:
    given = {"activations": 1 << 20, "weights": 1 << 20, "outputs": 1 << 20, **sram}
    return find_accelerator("systolic-32x32").model_copy(update={"sram": Sram(**given)})


def events(**sram: int) -> Accelerator:
    given = {"activations": 1 << 20, "weights": 1 << 20, "outputs": 1 << 20, **sram}
    return find_accelerator("event-driven").model_copy(update={"sram": Sram(**given)})


def stationary(product: Product, accelerator: Accelerator, stays: Residence) -> Traffic:
    return stationary_traffic(product, systolic(product, accelerator), accelerator, stays)


def test_a_dense_layer_whose_operands_fit() -> None:
    """2 x 2 folds of 32 x 32 over K = 40 and N = 50: inputs pass twice, sums are written twice and read once between."""
    found = stationary(LAYER, dense(), STAYS)
    assert found.dram == 400 + 500, "the frame comes, the results go"
    assert found.sram_read == (2 * 400) + 2000 + 4 * (500 + 500) + 500
    assert found.sram_written == 4 * 1000 + 500 + 400
    assert stationary(INNER, dense(), STAYS).dram == 0
    assert stationary(INNER, dense(), NOTHING).dram == 2000, "the weights, in each call"


def test_a_dense_layer_whose_operands_do_not_fit() -> None:
    assert stationary(INNER, dense(activations=799), STAYS).dram == 2 * 400 + 500, "inputs once a fold of output channels; results leave"
    assert stationary(INNER, dense(activations=800), STAYS).dram == 500, "half of it holds the inputs"
    # sums of 10 places and 32 channels wait for the second fold over K
    assert stationary(INNER, dense(outputs=2 * 10 * 32 * 4), STAYS).dram == 0
    assert stationary(INNER, dense(outputs=2 * 10 * 32 * 4 - 2), STAYS).dram == 2 * 500 * 4
    inputs = dense(weights=100).model_copy(update={"dataflow": "output-stationary", "rows": 4})
    assert stationary(INNER, inputs, NOTHING).dram == 3 * 2000, "weights once for each fold over places"


def test_an_event_driven_layer() -> None:
    seen = Events(0.1, 40, 2000, 1800, 9, 100, 300)
    work = 2000 + 4 * 1800 + 4 * 500  # weights, sums that are updated, sums that are taken away
    plain = event_traffic(LAYER, seen, events(), STAYS, listed=False, delta=False)
    assert (plain.sram_read, plain.sram_written, plain.dram) == (work + 400 + 500, 4 * 1800 + 500 + 400, 900)
    outer = event_traffic(LAYER, seen, events(), STAYS, listed=True, delta=False)
    assert outer == plain, "a frame is tested as it is read, results leave as they are"
    inner = event_traffic(INNER, seen, events(), STAYS, listed=True, delta=False)
    assert inner == Traffic(work + 3 * 40, 4 * 1800 + 3 * 40, 0), "results are written as the next layer's list, and only so"
    blocks = event_traffic(INNER, seen, events(), STAYS, listed=True, delta=False, width=4)
    assert blocks.sram_read - inner.sram_read == 3 * 40, "three values more an entry"
    many = event_traffic(INNER, replace(seen, entries=200), events(), STAYS, listed=True, delta=False)
    assert (many.sram_read, many.sram_written) == (work + 400, 4 * 1800 + 400), "all values are shorter than a list of half of them"


def test_lists_that_do_not_fit_leave_once_and_come_for_each_slice() -> None:
    seen = Events(0.1, 40, 2000, 1800, 9, 100, 300)
    lists = 3 * 40
    for delta in (False, True):
        fits = event_traffic(INNER, seen, events(activations=2 * lists), STAYS, listed=True, delta=delta)
        spilt = event_traffic(INNER, seen, events(activations=2 * lists - 2), STAYS, listed=True, delta=delta)
        assert (fits.dram, spilt.dram) == (0, 2 * lists)
    sliced = event_traffic(INNER, seen, events(activations=2, outputs=2 * 1000), STAYS, listed=True, delta=False)
    assert sliced.dram == (1 + 2) * lists, "half of the 500 sums at a time"


def test_what_stays_needs_no_slices() -> None:
    """2,000 bytes of weights and of sums, 400 for each part."""
    small = events(weights=800, outputs=800)
    some = [
        slices(one, small, stays, delta=delta)
        for one in (INNER, replace(INNER, stored=False))
        for stays, delta in ((STAYS, True), (STAYS, False), (NOTHING, True), (Residence(True, False), True))
    ]
    assert some == [1, 5, 5, 5, 5, 5, 5, 5]
    assert slices(INNER, events(weights=800), STAYS, delta=False) == 1 and slices(INNER, events(weights=800), NOTHING, delta=False) == 5
    assert slices(INNER, events(outputs=500), Residence(False, True), delta=True) == 1


def test_states_of_a_stream_stay_or_move() -> None:
    seen = Events(0.1, 40, 2000, 1800, 9, 100, 30)
    stay = event_traffic(LAYER, seen, events(), STAYS, listed=True, delta=True)
    assert stay.dram == 400 + 3 * 30, "the frame comes, changed results go with their places"
    move = event_traffic(LAYER, seen, events(), Residence(True, False), listed=True, delta=True)
    assert move.dram - stay.dram == 2 * 30 * 5 + 400 + 40, "sums and outputs that are reached, the last frame"
    assert state_bytes([LAYER, INNER], events()) == 2 * 500 * 5 + 400
    assert residence([LAYER, INNER], events(outputs=5400)).states and not residence([LAYER, INNER], events(outputs=5399)).states
    assert residence([LAYER, INNER], events(weights=4000)).weights and not residence([LAYER, INNER], events(weights=3999)).weights


def test_energy_is_counts_times_prices() -> None:
    prices = Energy(mac=2, sram_read=3, sram_write=5, dram=7, event=11, compare=13, idle_milliwatts=17)
    array = find_accelerator("event-driven").model_copy(update={"energy": prices, "clock_hz": 1e9})
    found = energy(array, macs=1, traffic=Traffic(10, 100, 1000), entries=10000, compared=100000, cycles=1000)
    assert found == EnergyParts(products=2, memory=530, outside=7000, lists=110000 + 1300000, idle=17000)
    assert found.total == 2 + 530 + 7000 + 1410000 + 17000


def counts(product: Product, active: torch.Tensor, accelerator: Accelerator) -> Counts:
    found = count_events(product, active[None], accelerator)
    return Counts({"zeros": found, "delta": found}, {"zeros": found, "delta": found})


def test_a_dense_array_gains_nothing_from_zeros() -> None:
    few = torch.rand(LAYER.shape, generator=torch.Generator().manual_seed(1)) < 0.1
    (layer,) = model_layers([LAYER], dense(), [counts(LAYER, few, dense())])
    assert layer.costs["dense"] == layer.costs["zeros"] == layer.costs["delta"]
    assert layer.ideal["zeros"] == int(few.sum()) * 50 < layer.ideal["dense"] == 20000
    gating = dense().model_copy(update={"skipping": Skipping(zeros="element")})
    (gated,) = model_layers([LAYER], gating, [counts(LAYER, few, gating)])
    assert gated.costs["zeros"].cycles == gated.costs["dense"].cycles
    saved = gated.costs["dense"].energy.products - gated.costs["zeros"].energy.products
    assert saved == pytest.approx(0.3 * (20000 - int(few.sum()) * 50))


def test_an_event_driven_array_does_what_is_there_and_no_more() -> None:
    few = torch.rand(LAYER.shape, generator=torch.Generator().manual_seed(1)) < 0.1
    (layer,) = model_layers([LAYER], events(), [counts(LAYER, few, events())])
    assert layer.costs["dense"].macs == everything(LAYER, events()).macs == 20000
    assert layer.costs["zeros"].macs == layer.costs["delta"].macs == int(few.sum()) * 50
    assert layer.costs["zeros"].listing == (400 + 500) / 64 and layer.costs["dense"].listing == 0
    for cost in layer.costs.values():
        assert cost.cycles == max(cost.computing, cost.listing, cost.waiting)
        assert cost.utilisation == cost.macs / (cost.cycles * 1024)


def test_nothing_changed_costs_next_to_nothing() -> None:
    still = torch.zeros(INNER.shape, dtype=torch.bool)
    (layer,) = model_layers([INNER], events(), [counts(INNER, still, events())])
    delta = layer.costs["delta"]
    assert (delta.cycles, delta.macs, delta.sram_bytes, delta.dram_bytes, delta.energy.total) == (0, 0, 0, 0, 0)


def test_unknown_inputs_all_count() -> None:
    (layer,) = model_layers([INNER], events(), [Counts({}, {})])
    assert layer.nonzero is layer.changed is None
    assert layer.costs["zeros"].macs == layer.costs["delta"].macs == 20000
