"""Summaries as campaigns on a ResNet-20 give them, made up with plausible numbers and no randomness."""

from __future__ import annotations

import math
from dataclasses import replace

from effc.faultsim.statistics.estimate import Estimate
from effc.faultsim.summary import SHARES, Cell, FaultRow, GroupSummary, Summary

LAYERS = {
    "conv1": 432,
    **{f"layer1.{block}.conv{part}": 2304 for block in range(3) for part in (1, 2)},
    "layer2.0.conv1": 4608,
    **{f"layer2.{block}.conv{part}": 9216 for block in range(3) for part in (1, 2) if block or part == 2},
    "layer3.0.conv1": 18432,
    **{f"layer3.{block}.conv{part}": 36864 for block in range(3) for part in (1, 2) if block or part == 2},
    "linear": 640,
    "linear.bias": 10,
}
BITS = 32
OF_LAYER = {"conv1": 2.8, "layer1.1.conv2": 3.0, "layer1.0.conv2": 0.06, "linear": 3.7, "linear.bias": 2.0}  # times the mean
OF_BIT = {31: 8.3e-4, 30: 0.401, 29: 2e-5, 28: 1e-5, 27: 3e-5, 26: 1.2e-4, 25: 3.2e-3, 24: 8.7e-4, 23: 1.6e-4}
HOSTILE = "<script>alert(1)</script>|`\"'&]](http://x.y)@a\x1b[31m\n\u202e{0}" + "x" * 90


def wilson(share: float, units: int) -> Estimate:
    """A share with its Wilson interval at 95 %."""
    z = 1.959964
    middle = (share + z * z / (2 * units)) / (1 + z * z / units)
    half = z / (1 + z * z / units) * math.sqrt(share * (1 - share) / units + z * z / (4 * units * units))
    return Estimate(share, max(middle - half, 0.0), min(middle + half, 1.0), 0.95, units, "Wilson over injections")


def single_faults(model: str = "resnet20.onnx", rename: dict[str, str] | None = None) -> Summary:
    """Single weight flips in f32, stratified by bit: 21 layers x 32 bits; sites of conv1's lowest bits had no injection."""
    names = {layer: (rename or {}).get(layer, layer) for layer in LAYERS}
    cells = []
    for layer, weights in LAYERS.items():
        for bit in range(BITS):
            share = min(OF_LAYER.get(layer, 0.8) * OF_BIT.get(bit, 2e-6 if bit < 12 else 1e-5), 1.0)
            made = 0 if layer == "conv1" and bit < 3 else 40
            cells.append(Cell(names[layer], bit, weights, made, wilson(share if made else 0.0, max(made, 1))))
    layers = [
        Cell(names[layer], None, BITS * weights, 1280, wilson(OF_LAYER.get(layer, 0.8) * 0.0127, 1280)) for layer, weights in LAYERS.items()
    ]
    weights = sum(LAYERS.values())
    bits = [Cell(None, bit, weights, 840, wilson(OF_BIT.get(bit, 0.0 if bit < 12 else 1e-5), 840)) for bit in range(BITS)]
    worst = tuple(
        FaultRow(
            index,
            names[layer],
            names[layer] if layer.endswith("bias") else f"{names[layer]}.weight",
            (index % 7, 0, 2, 1),
            30,
            1017,
            0,
            3 * index,
            1017 - 3 * index,
            0.5,
            after,
        )
        for index, (layer, after) in enumerate(zip(list(LAYERS) * 2, [1.7014118346046923e38, math.inf, math.nan] * 14, strict=True))
    )
    shares = {
        "masked": wilson(0.417, 26880),
        "non_critical": wilson(0.57024, 26880),
        "critical": Estimate(0.01276, 0.01117, 0.01435, 0.95, 26880, "stratified, Clopper-Pearson by stratum"),
        "sdc1": wilson(0.01121, 26880),
        "sdc5": wilson(0.0061, 26880),
        "sdc10": wilson(0.0024, 26880),
        "sdc20": wilson(0.0011, 26880),
        "due": wilson(0.00155, 26880),
    }
    group = GroupSummary(
        "all",
        None,
        BITS * weights,
        26880,
        0,
        26880,
        0,
        26880 * 1017,
        shares,
        Estimate(0.9077, 0.9063, 0.9091, 0.95, 26880, "Student's t over injections"),
        0.1003,
        0.9135,
        wilson(0.0102, 26880),
    )
    return Summary(
        campaign={
            "spec": {"seed": 7, "where": ["weights"], "stratify": ["bit"], "view": "f32"},
            "model": "sha256:" + "5f" * 32,
            "data": "sha256:" + "a3" * 32,
            "batch": 256,
            "threads": 1,
        },
        model=model,
        view="f32",
        effect="flip",
        duration="permanent",
        population=BITS * weights,
        sites=len(LAYERS),
        samples=1017,
        classes=True,
        golden_accuracy=wilson(0.9164, 1017),
        groups=(group,),
        overall=shares,
        layers=tuple(layers),
        bits=tuple(bits),
        cells=tuple(cells),
        worst=worst,
        complete=True,
        planned=26880,
        done=26880,
        notes=("Batch norms were folded before the campaign: the weights are those of the folded network.",),
    )


def sweep(model: str = "resnet20.onnx") -> Summary:
    """Five bit error rates in Q15.16, 100 draws each."""
    points = [  # rate, injections without a fault, mean, low, high, least, 5th percentile
        (1e-7, 42, 0.9158, 0.9149, 0.9164, 0.884, 0.9125),
        (1e-6, 0, 0.9031, 0.8952, 0.9092, 0.612, 0.841),
        (3e-6, 0, 0.871, 0.8522, 0.8881, 0.401, 0.702),
        (1e-5, 0, 0.7214, 0.6853, 0.7561, 0.163, 0.31),
        (3e-5, 0, 0.3512, 0.3077, 0.3956, 0.0993, 0.1121),
    ]
    base = single_faults(model)
    groups = []
    for rate, empty, mean, low, high, least, fifth in points:
        accuracy = Estimate(mean, low, high, 0.95, 100, "Student's t over injections")
        wrong = max(0.9164 - mean, 0.002) + 0.01
        same = 0.3 * (1 - wrong)
        rest = 1 - wrong - same
        parts = (same, rest, wrong, 0.88 * wrong, 0.5 * wrong, 0.1 * rest, 0.05 * rest, 0.12 * wrong)
        shares = {name: wilson(part, 100) for name, part in zip(SHARES, parts, strict=True)}
        flips = round(100 * rate * base.population)
        groups.append(
            GroupSummary(
                f"BER {rate:g}", rate, base.population, 100, empty, flips, 0, 101_700, shares, accuracy, least, fifth, shares["sdc1"]
            )
        )
    return replace(
        base, view="q15.16", groups=tuple(groups), overall={}, layers=(), bits=(), cells=(), worst=(), planned=500, done=500, notes=()
    )
