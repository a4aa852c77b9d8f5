"""Patterns of stuck multipliers beside a simulation of every multiplier, on small layers; a part of `benchmarks.accelerator_faults`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import fx

from benchmarks.array_by_multiplier import Array, Fault, Geometry, Ints, simulate
from benchmarks.harness import Claim, Outcome
from effc.faultsim.accelerator.faults import ArrayFault, patterns
from effc.faultsim.accelerator.mapping import Dataflow, Mapping
from effc.faultsim.accelerator.work import Convolution, Gemm, MatrixGemm

__all__ = ["DATAFLOWS", "STUCK", "TABLE", "patterns_part"]

TABLE = "Patterns of stuck multipliers (4 x 3) beside a simulation of every multiplier"

DATAFLOWS: tuple[Dataflow, ...] = ("weight-stationary", "output-stationary", "input-stationary", "event-driven")
CHANGING = 0.5  # others idle in small layers, or are stuck at what they hold
STUCK = ("stuck-at-0", "stuck-at-1")


class _Layer(NamedTuple):
    name: str
    channels: int
    size: int
    weights: tuple[int, ...]
    geometry: Geometry


_LAYERS = (
    _Layer("3x3, padded", 3, 5, (5, 3, 3, 3), Geometry((1, 1), (1, 1, 1, 1), (1, 1), 1)),
    _Layer("3x3, stride 2, padded on one side", 3, 6, (5, 3, 3, 3), Geometry((2, 2), (0, 0, 1, 1), (1, 1), 1, -128)),
    _Layer("2x2, two groups", 4, 4, (6, 2, 2, 2), Geometry((1, 1), (0, 0, 0, 0), (1, 1), 2, 3)),
    _Layer("3x3, depthwise", 4, 4, (4, 1, 3, 3), Geometry((1, 1), (1, 1, 1, 1), (1, 1), 4, -128)),
    _Layer("matrix product of 11 x 7", 11, 1, (7, 11, 1, 1), Geometry((1, 1), (0, 0, 0, 0), (1, 1), 1)),
)


def patterns_part(outcome: Outcome, quick: bool) -> None:
    """Every multiplier of 4 x 3, stuck in the product's bit 9 and the sum's bit 11, at 0 and at 1."""
    wrong = faults = told = 0
    for layer in _LAYERS[1::2] if quick else _LAYERS:
        draw = np.random.default_rng(len(layer.name))
        words = draw.integers(-128, 128, (1, layer.channels, layer.size, layer.size))
        words[draw.random(words.shape) < 0.3] = layer.geometry.zero_point
        weights = draw.integers(-128, 128, layer.weights)
        for dataflow in DATAFLOWS:
            array = Array(4, 3, dataflow, 1 if dataflow == "event-driven" else None)
            clean = simulate(words, weights, layer.geometry, array, None)
            tried = differing = hit = 0
            for fault in _stuck_everywhere(array):
                truth = simulate(words, weights, layer.geometry, array, fault)
                differing += int((_predicted(layer, words, weights, array, fault) != truth).sum())
                hit += int((truth != clean).sum())
                told += bool((truth != clean).any())
                tried += 1
            wrong, faults = wrong + differing, faults + tried
            outcome.rows.append(
                {
                    "table": TABLE,
                    "layer": layer.name,
                    "dataflow": dataflow,
                    "faults": tried,
                    "sums": tried * clean.size,
                    "changed by the fault": hit,
                    "differing from the pattern": differing,
                }
            )
    outcome.claims += [
        Claim("sums under a stuck multiplier that differ from the simulation of every multiplier", wrong, 0, "at most"),
        Claim("share of those stuck multipliers that change a sum (0 for faults that do nothing)", told / faults, CHANGING, "at least"),
    ]


def _stuck_everywhere(array: Array) -> Iterator[Fault]:
    for row in range(array.rows):
        for column in range(array.columns):
            for kind, bit in (("pe-product", 9), ("pe-sum", 11)):
                for effect in STUCK:
                    yield Fault(kind, bit, effect, (row, column))


def _predicted(layer: _Layer, words: Ints, weights: Ints, array: Array, fault: Fault) -> Any:
    graph = fx.Graph()
    tensors = tuple(graph.placeholder(name) for name in "abcd")
    product: Gemm
    if layer.size == 1:
        product = MatrixGemm(graph.call_function(torch.ops.effc.matmul_integer.default, tensors))
        x, w = torch.tensor(words[:, :, 0, 0]), torch.tensor(weights[:, :, 0, 0].T.copy())
    else:
        where = (list(layer.geometry.stride), list(layer.geometry.padding), list(layer.geometry.dilation), layer.geometry.groups)
        product = Convolution(graph.call_function(torch.ops.effc.conv_integer.default, (*tensors, *where)))
        x, w = torch.tensor(words), torch.tensor(weights)
    given = product.operands([x.to(torch.int8), w.to(torch.int8), torch.tensor(layer.geometry.zero_point, dtype=torch.int8)])
    sums = product.sums(given.x, product.matrix(given.weights))
    mapping = Mapping(array.rows, array.columns, array.dataflow, array.skip)  # type: ignore[arg-type]
    for pattern in patterns(ArrayFault(fault.kind, fault.bit, fault.effect, fault.place), product, mapping, given):  # type: ignore[arg-type]
        pattern.add_to(sums)
    return sums.flatten(1, 2).numpy()
