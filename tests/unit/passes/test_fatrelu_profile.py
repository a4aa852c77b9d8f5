"""FATReLU: thresholds a channel and a layer; and profile, which only looks."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from effc.errors import DataError
from effc.evaluate import evaluate
from effc.ir import Facts, Program
from effc.ir.ops.sparsify import SPARSIFY
from effc.passes import Context
from tests.unit.passes.sparse_networks import GatedMlp, cnn, context_for, data_for, program_of, rewritten, value_of


@pytest.fixture(scope="module")
def program() -> Program:
    torch.manual_seed(0)
    return program_of(cnn(), 2, 6, 6)


def outputs(program: Program, x: Tensor) -> Tensor:
    return next(iter(program.run({program.interface.inputs[0].name: x}).values()))


def thresholds(program: Program) -> list[Tensor]:
    return [program.tensors[node.args[1].name].detach() for node in program.nodes if node.target == SPARSIFY.overload]


def test_every_channel_loses_the_same_share_of_its_positive_values(program: Program) -> None:
    result, context = rewritten("fatrelu{sparsity=0.8}", program)
    assert [tuple(one.shape) for one in thresholds(result)] == [(6, 1, 1), (8, 1, 1), (16,)]
    assert context.fit is not None
    before = value_of(result, "relu", context.fit)
    after = value_of(result, "sparsify_default", context.fit)
    assert float((after != 0).float().mean()) == pytest.approx(0.2, abs=0.003)
    left = (after != 0).sum((0, 2, 3)) / (before != 0).sum((0, 2, 3))
    torch.testing.assert_close(left, torch.full((6,), float(left.mean())), rtol=0.03, atol=0)
    limit = thresholds(result)[0]
    assert torch.equal(after, torch.where(before >= limit, before, 0.0))
    for node in result.nodes:
        if node.target == SPARSIFY.overload:  # later layers see what earlier ones have left
            assert result.facts.values[node.name].density == pytest.approx(0.2, abs=0.08)
    assert re.fullmatch(
        r"threshold 0\.\d+ to 0\.\d+ over 6 channels for 80\.0% zeros: density \d+\.\d% -> (19|20)\.\d% on 256 samples",
        context.decisions[0].why,
    )


def test_one_threshold_a_layer_is_the_quantile_of_all(program: Program) -> None:
    result, context = rewritten("fatrelu{sparsity=0.8,per=layer,layers=^1$}", program)
    (limit,) = thresholds(result)
    assert limit.shape == () and context.fit is not None
    assert float(limit) == pytest.approx(float(value_of(program, "relu", context.fit).flatten().quantile(0.8)), rel=0.01)
    assert [one.why for one in context.decisions if not one.done] == ["is left out by layers=^1$"] * 2


def test_natural_zeros_last_relus_and_second_runs_are_left_alone(program: Program) -> None:
    result, context = rewritten("fatrelu{sparsity=0.2}", program)
    assert thresholds(result) == [] and len(context.decisions) == 3
    assert all("20.0% zeros take no threshold" in one.why for one in context.decisions)
    assert {"relu", "relu_1", "relu_2"} <= result.facts.values.keys()
    once, _ = rewritten("fatrelu{sparsity=0.9}", program)
    twice, context = rewritten("fatrelu{sparsity=0.9}", once)
    assert [node.target for node in twice.nodes] == [node.target for node in once.nodes]
    assert [one.why for one in context.decisions] == ["has a threshold already"] * 3
    _, context = rewritten("fatrelu", program_of(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), 3))
    assert [one.why for one in context.decisions] == ["feeds no other layer: its zeros would save nothing"]
    _, context = rewritten("fatrelu", program_of(nn.Linear(3, 3), 3))
    assert [one.why for one in context.decisions] == ["has no ReLU"]


def test_max_drop_holds_on_the_selection_data(program: Program) -> None:
    context = context_for(program, 256)
    assert context.selection is not None
    x = torch.from_numpy(next(iter(context.selection.inputs.values())))
    labels = outputs(program, x).argmax(1).numpy()
    context.selection = type(context.selection)(context.selection.inputs, labels)
    result, _ = rewritten("fatrelu{max_drop=0.02}", program, context)
    (curve,) = context.curves
    assert (curve.metric, curve.before) == ("top1", 1.0)
    (kept,) = (point for point in curve.points if point.kept)
    score = evaluate(lambda given: {"y": outputs(result, x).numpy()}, context.selection, "top1", batch_size=len(x))
    assert score.value == pytest.approx(kept.value) and score.value >= 0.98 - 1e-9
    assert kept.density < curve.points[0].density


# ---- profile -----------------------------------------------------------------------------------------------------------------


def test_profile_records_and_changes_nothing(program: Program) -> None:
    result, context = rewritten("profile", program)
    assert result.exported is program.exported and context.fit is not None
    wanted = {program.interface.inputs[0].name, "relu", "relu_1", "relu_2", "view", "reshape", "flatten"}
    assert {"relu", "relu_1", "relu_2"} < result.facts.values.keys() <= wanted
    value = value_of(program, "relu_1", context.fit)
    fact = result.facts.values["relu_1"]
    assert (fact.minimum, fact.maximum, fact.samples) == (0.0, float(value.max()), 256)
    assert fact.density == pytest.approx(float((value != 0).float().mean()))
    assert fact.histogram is not None and len(fact.histogram.shares) == 64
    assert sum(fact.histogram.shares) == pytest.approx(fact.density, abs=0.002)
    upper = fact.histogram.upper
    assert fact.histogram.shares[3] == pytest.approx(
        float(((value > upper * 3 / 64) & (value <= upper * 4 / 64)).float().mean()), abs=0.003
    )
    assert Facts.from_json(result.facts.as_json()) == result.facts
    assert len(context.decisions) == len(result.facts.values)


def test_profile_observes_inputs_of_products_and_says_what_holds_no_reals() -> None:
    torch.manual_seed(0)
    result, _ = rewritten("profile", program_of(GatedMlp(), 5, 16))
    assert set(result.facts.values) == {"x", "silu", "mul"}

    class Whole(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.relu((x * 10).to(torch.int64))

    program = program_of(Whole(), 3)
    _, context = rewritten("profile", program)
    assert [one.why for one in context.decisions] == ["activation: holds integers, which are not observed"]
    with pytest.raises(DataError, match="pass profile needs calibration data"):
        rewritten("profile", program, Context(selection=data_for(program, 2, 0)))
