"""Top-k and statistical top-k: the feed-forward parts that they find, and what stays of a row."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from effc.evaluate import evaluate
from effc.ir import Program
from effc.ir.ops.keep_top_k import KEEP_TOP_K
from effc.ir.ops.statistical_top_k import STATISTICAL_TOP_K
from effc.passes.mlp_patterns import mlps
from tests.unit.passes.sparse_networks import GatedMlp, Language, context_for, data_for, plain_mlp, program_of, rewritten, value_of

F = nn.functional


class Fused(nn.Module):
    """GEGLU with one layer for both halves, its GELU written out, and a reshape in front of the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.down = nn.Linear(8, 48), nn.Linear(24, 8)

    def forward(self, x: Tensor) -> Tensor:
        up, gate = self.both(x).chunk(2, -1)
        gelu = 0.5 * gate * (1 + torch.erf(gate / 2**0.5))
        return self.down((up * gelu).reshape(-1, 24)).reshape(-1, 4, 8)


def targets(program: Program) -> list[object]:
    return [node.target for node in program.nodes]


def outputs(program: Program, x: Tensor) -> Tensor:
    return next(iter(program.run({program.interface.inputs[0].name: x}).values()))


def inputs(program: Program, samples: int = 64, seed: int = 3) -> Tensor:
    return torch.from_numpy(next(iter(data_for(program, samples, seed).inputs.values())))


def test_parts_are_found_in_every_form() -> None:
    torch.manual_seed(0)
    found = mlps(program_of(plain_mlp(), 12))
    assert [(one.first.source, one.up, one.down.source, one.width) for one in found] == [("0", None, "2", 32), ("2", None, "4", 24)]
    assert found[0].skips == 24 * 32 * 4
    (one,) = mlps(program_of(GatedMlp(), 5, 16))
    assert one.up is not None and (one.first.source, one.up.source, one.down.source) == ("gate", "up", "down")
    assert one.skips == 2 * 16 * 40 * 4
    (one,) = mlps(program_of(Fused(), 4, 8))
    assert one.up is one.first and one.down.source == "down" and one.skips == (24 * 8 + 24 * 8) * 4
    assert len(mlps(program_of(Language(), 5, 16))) == 2

    class Products(nn.Module):
        """As an ONNX file has it: products, biases that are added, SiLU in two operators."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Parameter(torch.randn(6, 6)) for _ in range(3))
            self.bias = nn.Parameter(torch.randn(6))

        def forward(self, x: Tensor) -> Tensor:
            gate = self.bias + x @ self.a
            return (gate * torch.sigmoid(gate)) * (x @ self.b + self.bias) @ self.c

    program = program_of(Products(), 6)
    (one,) = mlps(program)
    assert one.up is not None and [site.name for site in (one.first, one.up, one.down)] == ["matmul", "matmul_1", "matmul_2"]
    assert one.pre.name == "add" and [node.name for node in one.inside] == ["sigmoid", "mul"]


class NotOne(nn.Module):
    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.last, self.function = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2), function

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.a(x), self.b(x)))


@pytest.mark.parametrize("function", [lambda a, b: a * b, lambda a, b: torch.relu(a + b), lambda a, b: torch.relu(torch.cumsum(a, 1)) + b])
def test_what_only_looks_like_a_part_is_none(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    program = program_of(NotOne(function), 6)
    assert [one for one in mlps(program) if one.up is not None or one.first.source != "a"] == []
    if function(torch.full((1, 6), 2.0), torch.full((1, 6), 3.0))[0, 0] in (6, 5):  # the first two
        assert mlps(program) == []
        _, context = rewritten("topk", program)
        assert [one.why for one in context.decisions] == ["has no activation of one linear layer that another one reads"]


# ---- topk --------------------------------------------------------------------------------------------------------------------


def test_k_of_every_row_stay_and_up_is_masked_too() -> None:
    torch.manual_seed(0)
    net = GatedMlp()
    program = program_of(net, 5, 16)
    result, context = rewritten("topk{sparsity=0.8}", program)
    x = inputs(program)
    gate, up = F.silu(net.gate(x)), net.up(x)
    threshold = gate.topk(8, -1).values[..., -1:]
    expected = net.down(torch.where(gate >= threshold, gate, 0.0) * up).detach()
    torch.testing.assert_close(outputs(result, x), expected)
    (node,) = (node for node in result.nodes if node.target == KEEP_TOP_K.overload)
    assert node.args[1] == 8 and result.facts.values[node.name].density == pytest.approx(0.2)
    (product,) = (node for node in result.nodes if node.target == torch.ops.aten.mul.Tensor)
    assert result.facts.values[product.name].density == pytest.approx(0.2)
    (told,) = context.decisions
    assert told.why.startswith("the 8 largest of 40 stay: density 20.0% on 256 samples; 4.1 of 5.1 kB of weights of up and down")


def test_natural_zeros_count_among_the_dropped() -> None:
    torch.manual_seed(0)
    program = program_of(plain_mlp(), 12)
    result, context = rewritten("topk{sparsity=0.25,layers=^1$}", program)
    x = inputs(program)
    (node,) = (node for node in result.nodes if node.target == KEEP_TOP_K.overload)
    assert node.args[1] == 24 and result.facts.values[node.name].density < 0.65
    assert [one.done for one in context.decisions] == [False, True]
    full, _ = rewritten("topk{sparsity=0}", program)
    assert targets(full) == targets(program) and torch.equal(outputs(full, x), outputs(program, x))


@pytest.mark.parametrize("net", [plain_mlp, Fused, GatedMlp], ids=["plain", "fused", "gated"])
@pytest.mark.parametrize("spec", ["topk", "statistical-topk{calibrate=true}", "statistical-topk{form=hard}"])
def test_a_second_run_changes_nothing(net: Callable[[], nn.Module], spec: str) -> None:
    torch.manual_seed(0)
    shape = {"plain_mlp": (12,), "Fused": (4, 8), "GatedMlp": (5, 16)}[net.__name__]
    program = program_of(net(), *shape)
    once, first = rewritten(spec, program)
    twice, second = rewritten(spec, once)
    assert any(one.done for one in first.decisions) and not any(one.done for one in second.decisions)
    assert targets(twice) == targets(once) != targets(program)
    assert all("top-k already" in one.why for one in second.decisions)


# ---- statistical-topk --------------------------------------------------------------------------------------------------------


def test_the_soft_form_is_sparks_and_the_hard_one_leaves_what_stays() -> None:
    torch.manual_seed(0)
    net = Fused()
    program = program_of(net, 4, 8)
    x = inputs(program)
    up, gate = net.both(x).detach().chunk(2, -1)
    theta = gate.mean(-1, keepdim=True) + 0.8416212335729143 * gate.std(-1, correction=0, keepdim=True)
    for form, kept in {"soft": F.relu(gate - theta), "hard": torch.where(gate > theta, gate, 0.0)}.items():
        result, context = rewritten(f"statistical-topk{{sparsity=0.8,form={form}}}", program)
        torch.testing.assert_close(outputs(result, x), net.down(F.gelu(kept) * up).detach(), rtol=1e-4, atol=1e-5)
        (node,) = (node for node in result.nodes if node.target == STATISTICAL_TOP_K.overload)
        assert 0.1 < result.facts.values[node.name].density < 0.3
        assert f"0.8416 deviations stays ({form}, for 80.0% zeros)" in context.decisions[0].why


def test_a_calibrated_quantile_gives_the_wanted_density_where_rows_are_not_gaussian() -> None:
    class Heavy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.down = nn.Linear(32, 32, bias=False), nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.down(F.relu(self.first(x)))

    torch.manual_seed(0)
    net = Heavy()
    with torch.no_grad():
        net.first.weight.copy_(torch.eye(32))
    program = program_of(net, 32)
    context = context_for(program, 1024)
    assert context.fit is not None
    context.fit = type(context.fit)({name: value**3 for name, value in context.fit.inputs.items()})
    measured = {}
    for calibrate in ("false", "true"):
        result, _ = rewritten(f"statistical-topk{{sparsity=0.9,form=hard,calibrate={calibrate}}}", program, context)
        (node,) = (node for node in result.nodes if node.target == STATISTICAL_TOP_K.overload)
        measured[calibrate] = float((value_of(result, node.name, context.fit) != 0).float().mean())
        assert result.facts.values[node.name].density == pytest.approx(measured[calibrate], abs=1e-6)
    assert measured["false"] < 0.08  # of cubed Gaussians the Gaussian quantile keeps too few
    assert measured["true"] == pytest.approx(0.1, abs=0.002)


def _silu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


@pytest.mark.parametrize("function", [torch.sigmoid, F.softplus, lambda x: F.silu(x + 1), lambda x: _silu(x + 1)])
def test_an_activation_that_makes_something_of_zero_is_left_alone(function: Callable[[Tensor], Tensor]) -> None:
    program = program_of(NotOne(lambda a, b: function(a) * b), 6)
    result, context = rewritten("statistical-topk", program)
    assert targets(result) == targets(program)
    assert [one.why for one in context.decisions] == ["its activation of zero is not zero: what is dropped in front of it would not be"]
    assert KEEP_TOP_K.overload in targets(rewritten("topk", program)[0])


# ---- search ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["topk{max_drop=0.04}", "statistical-topk{form=hard,calibrate=true,max_drop=0.04}"])
def test_max_drop_holds_on_the_selection_data(spec: str) -> None:
    torch.manual_seed(0)
    program = program_of(Language(), 5, 16)
    result, context = rewritten(spec, program, context_for(program, 96))
    assert context.selection is not None
    name = program.interface.inputs[0].name
    score = evaluate(
        lambda given: {"y": outputs(result, torch.from_numpy(given[name])).numpy()},
        context.selection,
        "agreement",
        reference=lambda given: {"y": outputs(program, torch.from_numpy(given[name])).numpy()},
    )
    (curve,) = context.curves
    (kept,) = (point for point in curve.points if point.kept)
    assert 0.96 - 1e-9 <= score.value == pytest.approx(kept.value)
    assert kept.level > 0 and kept.density < 1
