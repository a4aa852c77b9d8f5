"""Closed-form patterns of faults equal a simulation of every multiplier: positions, channels and values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks import array_by_multiplier as brute_force
from benchmarks.array_by_multiplier import Array, Fault, Geometry, simulate
from effc.faultsim.accelerator.faults import WIDTHS, ArrayFault, patterns
from effc.faultsim.accelerator.mapping import Mapping
from effc.faultsim.accelerator.work import Gemm
from tests.unit.faultsim.accelerator.layers import convolution, matrix_product, operands, random_case

DATAFLOWS = ("weight-stationary", "output-stationary", "input-stationary", "event-driven")
SEEDS = range(4)


def predicted(product: Gemm, array: Array, fault: Fault | None, words, weights, zero_point: int = 0, dtype=torch.int8):
    """Clean sums plus the patterns: (S, O, M)."""
    given = operands(product, words, weights, zero_point, dtype)
    sums = product.sums(given.x, product.matrix(given.weights))
    if fault is not None:
        mapping = Mapping(array.rows, array.columns, array.dataflow, array.skip)
        for pattern in patterns(ArrayFault(fault.kind, fault.bit, fault.effect, fault.place), product, mapping, given):
            pattern.add_to(sums)
    return sums.flatten(1, 2).numpy()


def drawn_fault(kind: str, effect: str, array: Array, words, weights, geometry: Geometry, draw: np.random.Generator) -> Fault:
    """A place and a bit at random; low bits too, whose carries matter."""
    bit = int(draw.integers(WIDTHS[kind]))
    if kind.startswith("pe"):
        return Fault(kind, bit, effect, (int(draw.integers(array.rows)), int(draw.integers(array.columns))))
    if kind.startswith("sram"):
        size = words[0].size if kind == "sram-activation" else weights.size
        return Fault(kind, bit, effect, tuple(map(int, draw.choice(size, 1 if effect == "flip" else 2, replace=False))))
    if effect != "flip":
        return Fault(kind, bit, effect, (int(draw.integers(array.columns)),))
    depth = int(np.prod(weights.shape[1:]))
    steps = -(-depth // array.rows) if array.dataflow in DATAFLOWS[::2] else depth
    clean = simulate(words, weights, geometry, array, None)
    return Fault(kind, bit, effect, (int(draw.integers(steps)), int(draw.integers(clean.shape[1])), int(draw.integers(clean.shape[2]))))


def has(case: tuple[str, str], dataflow: str) -> bool:
    """Not every array has accumulators of columns; `array_sites` refuses them there."""
    return case[0] != "accumulator" or case[1] == "flip" or dataflow in DATAFLOWS[::2]


CASES = [
    *((kind, effect) for kind in ("pe-product", "pe-sum", "accumulator") for effect in ("stuck-at-0", "stuck-at-1")),
    ("accumulator", "flip"),
    *((kind, effect) for kind in ("sram-weight", "sram-activation") for effect in ("flip", "stuck-at-0", "stuck-at-1")),
]


@pytest.mark.parametrize("skip", [None, 1, 2])
@pytest.mark.parametrize(
    ("kind", "effect", "dataflow"), [(*case, dataflow) for case in CASES for dataflow in DATAFLOWS if has(case, dataflow)]
)
def test_pattern_is_what_every_multiplier_gives(kind: str, effect: str, dataflow: str, skip: int | None) -> None:
    changed = 0
    for seed in SEEDS:
        words, weights, geometry = random_case(seed)
        array, draw = Array(4, 3, dataflow, skip), np.random.default_rng([seed, WIDTHS[kind], len(effect)])
        clean = simulate(words, weights, geometry, array, None)
        product = convolution(geometry)
        assert np.array_equal(predicted(product, array, None, words, weights, geometry.zero_point), clean)
        for _ in range(2):
            fault = drawn_fault(kind, effect, array, words, weights, geometry, draw)
            truth = simulate(words, weights, geometry, array, fault)
            found = predicted(product, array, fault, words, weights, geometry.zero_point)
            assert np.array_equal(found, truth), (seed, fault)
            changed += not np.array_equal(truth, clean)
    assert changed > 1  # else the faults above say nothing


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_matrix_products_too(dataflow: str) -> None:
    """(S, T, K) x (K, N) is a convolution over T with a kernel of one."""
    draw = np.random.default_rng(7)
    words, weights = draw.integers(0, 256, (2, 5, 11)), draw.integers(-128, 128, (11, 7))
    as_convolution = (words.transpose(0, 2, 1), weights.T[:, :, None])
    geometry, array = Geometry((1,), (0, 0), (1,), 1, 3), Array(4, 3, dataflow, 1)
    faults = [
        Fault("pe-product", 14, "stuck-at-1", (1, 2)),
        Fault("pe-sum", 9, "stuck-at-0", (2, 0)),
        Fault("accumulator", 5, "flip", (1, 6, 4)),
    ]
    for fault in faults:
        truth = simulate(*as_convolution, geometry, array, fault)
        assert np.array_equal(predicted(matrix_product(), array, fault, words, weights, 3, torch.uint8), truth), fault


def test_memory_words_of_matrix_products() -> None:
    """Words lie as the tensors do: (K, N) of weights, (T, K) of uint8 activations, whose bit 7 is worth 128."""
    draw = np.random.default_rng(8)
    words, weights = draw.integers(0, 256, (2, 3, 4)), draw.integers(-128, 128, (4, 5))
    array = Array(4, 3, "weight-stationary")
    for fault, where in ((Fault("sram-weight", 7, "flip", (13,)), (2, 3)), (Fault("sram-activation", 7, "flip", (6,)), (1, 2))):
        x, w = words.copy(), weights.copy()
        if fault.kind == "sram-weight":
            w[where] = brute_force.read(int(w[where]), fault)
        else:
            x[(slice(None), *where)] ^= 128
        expected = ((x - 3) @ w).transpose(0, 2, 1)
        assert np.array_equal(predicted(matrix_product(), array, fault, words, weights, 3, torch.uint8), expected)


def test_channels_and_positions_by_hand() -> None:
    """One input channel of ones, a kernel of one, weights 1 .. 5, on 2 x 2 multipliers: what a stuck bit 4 adds can be counted."""
    words, weights = np.ones((1, 1, 1, 3), np.int64), np.arange(1, 6).reshape(5, 1, 1, 1)
    geometry, fault = Geometry((1, 1), (0, 0, 0, 0), (1, 1), 1), Fault("pe-product", 4, "stuck-at-1", (0, 1))
    expected = {
        "weight-stationary": [[0, 0, 0], [16, 16, 16], [0, 0, 0], [16, 16, 16], [0, 0, 0]],  # channels 1 and 3, everywhere
        "input-stationary": [[0, 16, 0]] * 5,  # position 1, all channels
        "output-stationary": [[0, 0, 0], [16, 0, 16], [0, 0, 0], [16, 0, 16], [0, 0, 0]],  # channels 1 and 3 at positions 0 and 2
    }
    for dataflow, change in expected.items():
        found = predicted(convolution(geometry), Array(2, 2, dataflow), fault, words, weights)
        assert (found[0] - weights.reshape(5, 1)).tolist() == change
    idle = Fault("pe-product", 4, "stuck-at-1", (1, 1))  # row 1 has no weight: its product of zeros still reads 16
    assert (predicted(convolution(geometry), Array(2, 2, "weight-stationary"), idle, words, weights)[0, 1] == 2 + 16).all()
    assert (predicted(convolution(geometry), Array(2, 2, "weight-stationary", 1), idle, words, weights)[0, 1] == 2).all()  # gated


def test_a_flip_of_a_late_sum_is_worth_its_bit() -> None:
    """The sum of 1 * 3 + 1 * 5 in folds of one: bit 1 of 3 is set, and of 8 is not; bit 31 wraps around."""
    words, weights = np.ones((1, 2, 1, 1), np.int64), np.array([3, 5]).reshape(1, 2, 1, 1)
    geometry, array = Geometry((1, 1), (0, 0, 0, 0), (1, 1), 1), Array(1, 1, "weight-stationary")
    for fold, bit, total in ((0, 1, 6), (1, 1, 10), (1, 31, 8 - 2**31)):
        fault = Fault("accumulator", bit, "flip", (fold, 0, 0))
        assert predicted(convolution(geometry), array, fault, words, weights).item() == total


def test_an_input_that_no_window_reads_changes_nothing() -> None:
    """With stride 2 and a kernel of one the second of three pixels is never read."""
    words, weights = np.ones((1, 1, 1, 3), np.int64), np.full((1, 1, 1, 1), 2)
    geometry = Geometry((1, 2), (0, 0, 0, 0), (1, 1), 1)
    fault = Fault("sram-activation", 3, "flip", (1,))
    assert predicted(convolution(geometry), Array(2, 2, "weight-stationary"), fault, words, weights).tolist() == [[[2, 2]]]
