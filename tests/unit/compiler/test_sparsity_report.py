"""What a report says of zeros comes from facts, weights and the cost model, and agrees with what the kernels decided."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from effc.compiler import compile_model
from effc.compiler.sparsity import magnitudes, predictions, quality_curve, weight_facts
from effc.ir import Batch, Histogram, Program, Provenance, ValueFacts
from effc.lowering import lower
from effc.passes import Context, Pipeline, parse_passes
from effc.passes.curve import Curve, CurvePoint
from effc.targets import Target, find_target
from effc.targets.rates import Level, Rates
from tests.unit.passes.sparse_networks import GatedMlp, context_for, program_of

RATES = Rates(Level(1.0, 1.0, 4.0), Level(1.0, 1.0, 4.0), 1.0)


@pytest.fixture
def target() -> Target:
    return replace(find_target("cpu"), rates=RATES)


def known(module: nn.Module, densities: tuple[float, ...], *inputs: Tensor) -> Program:
    """A program whose inputs are known to be as dense as this."""
    names = [f"x{index}" for index in range(len(inputs))]
    exported = torch.export.export(module.eval(), inputs)
    program = Program.from_exported(exported, Provenance("case", "torch", "0"), batch=Batch(False), input_names=names)
    facts = zip(program.input_nodes.values(), densities, strict=False)
    return program.with_facts(program.facts.with_values({node.name: ValueFacts(-1.0, 1.0, density, 1) for node, density in facts}))


def test_a_skipping_product_with_two_inputs(target: Target) -> None:
    program = known(nn.Linear(64, 64), (0.25,), torch.zeros(2, 64))
    lowered = lower(program, target)
    assert lowered.plan is not None
    found = predictions(program, lowered, target)
    [(step, predicted)] = zip(lowered.plan.steps, found, strict=True)
    assert step.family == "skipping" and predicted is not None
    read = 1 - 0.75**2
    assert (predicted.density, predicted.read, predicted.weights, predicted.skips) == (0.25, read, 16384, True)
    assert (predicted.dense, predicted.skipping) == (16384.0, 2 * 64 + read * 64 * (4 + 256))
    # what the kernel itself went by
    assert f"skipping {predicted.skipping / 1000:,.1f} µs, dense {predicted.dense / 1000:,.1f} µs predicted" in step.note
    assert weight_facts(program, lowered, found) == [
        ("weights that need not be read", "12.3 of 16.4 kB (75%): they meet zeros, for one input, on calibration data"),
        ("weights that are not read", "9.2 of 16.4 kB (56%) predicted; 1 of 1 product skip"),
    ]


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(32, 96, bias=False)

    def forward(self, mask: Tensor, x: Tensor) -> Tensor:
        result: Tensor = self.up(x) * mask
        return result


def test_a_masked_product(target: Target) -> None:
    program = known(Masked(), (0.125,), torch.zeros(1, 96), torch.zeros(1, 32))
    lowered = lower(program, target)
    assert lowered.plan is not None
    [predicted] = predictions(program, lowered, target)
    assert predicted is not None and lowered.plan.steps[0].family == "masked"
    assert (predicted.density, predicted.read, predicted.weights) == (0.125, 0.125, 12288)
    assert predicted.skipping == 96 + 12 * (4 + 128)
    assert f"skipping {predicted.skipping / 1000:,.1f} µs" in lowered.plan.steps[0].note
    assert weight_facts(program, lowered, [predicted])[0][1].startswith("10.8 of 12.3 kB (88%)")


def test_a_dense_program_says_nothing_of_zeros(target: Target) -> None:
    program = known(nn.Linear(64, 64), (), torch.zeros(1, 64))
    lowered = lower(program, target)
    assert predictions(program, lowered, target) == (None,)
    assert weight_facts(program, lowered, (None,)) == []


def test_magnitudes_stand_in_front_of_their_threshold_once() -> None:
    program = program_of(nn.Sequential(GatedMlp(), nn.Linear(16, 4)), 16)
    done = Pipeline(parse_passes("profile,teal{sparsity=0.5,allocation=uniform}"))(program, context_for(program))
    found = magnitudes(done)
    # gate and up share one threshold, which is called like the first; the gate's activation and the head's input have none
    assert [(one.name, one.threshold is not None) for one in found] == [("0.gate", True), ("0", False), ("0.down", True), ("0.down", False)]
    for one in found:
        if one.threshold is None:
            assert one.after is None
            continue
        assert one.before is not None and one.after is not None
        assert one.before.density == 1.0 and one.after.density == pytest.approx(0.5, abs=0.05)
        low, high = one.threshold
        assert low == high > 0
        width = one.after.upper / len(one.after.shares)
        assert sum(share for index, share in enumerate(one.after.shares) if width * (index + 1) < low) == 0
        assert sum(one.after.shares) == pytest.approx(one.after.density, abs=0.002)


def test_histograms_with_odd_numbers_are_left_out() -> None:
    program = known(nn.Linear(4, 4), (0.5,), torch.zeros(1, 4))
    (name,) = program.facts.values
    for upper, shares in ((math.nan, (0.5,)), (math.inf, (0.5,)), (1.0, (math.nan,))):
        fact = ValueFacts(0.0, 1.0, 0.5, 1, histogram=Histogram(upper, shares))
        assert magnitudes(program.with_facts(program.facts.with_values({name: fact}))) == ()


def test_a_curve_without_numbers_is_json() -> None:
    curve = Curve("teal", "perplexity", math.inf, math.inf, 3, (CurvePoint(0.0, 1.0, math.nan, True, True),))
    made = quality_curve("teal{max-drop=inf}", curve)
    assert (made.before, made.max_drop, made.budget, made.larger_is_better) == (None, None, None, False)
    assert made.points[0].value is None and made.points[0].kept
    assert quality_curve("", replace(curve, metric="top1")).larger_is_better


def test_a_compile_hands_everything_to_its_report(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 5)).eval()
    rows = np.random.default_rng(0).standard_normal((80, 12), np.float32)
    specs = ["fatrelu{max-drop=0.5}", "teal{sparsity=0.4,allocation=uniform}"]
    result = compile_model(net, tmp_path / "out", passes=specs, data=rows, example_inputs=(torch.zeros(2, 12),))
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    [curve] = report["curves"]
    assert (curve["name"], curve["metric"], curve["max_drop"], curve["samples"]) == ("fatrelu{max-drop=0.5}", "agreement", 0.5, 16)
    assert sum(point["kept"] for point in curve["points"]) == 1
    drawn = report["magnitudes"]
    assert len(drawn) == len(result.report.magnitudes) >= 2
    assert all(len(one["after"]["shares"]) == 64 for one in drawn if one["after"])
    text = (tmp_path / "out" / "report.html").read_text()
    assert "Quality against sparsity" in text and "Magnitudes of activations" in text
    assert Context().curves == []
