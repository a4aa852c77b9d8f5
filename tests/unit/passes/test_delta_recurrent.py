"""Recurrent layers on differences: the plain layer at threshold 0, the paper's formulas above it, no residual lost, no drift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from effc.data import Dataset
from effc.errors import ConfigError, DataError
from effc.frontends import load_program
from effc.ir import Edit, Program, State, ValueFacts, verify
from effc.ir.ops.sparsify import SPARSIFY
from effc.lowering import lower, run_lowered
from effc.passes.base import Context
from effc.passes.delta_recurrent import CALLS
from effc.passes.fold_constants import FoldConstants
from effc.passes.recurrent_fit import RecurrentRule, is_recurrent, stream_recurrent
from effc.passes.recurrent_sites import recurrent_sites
from effc.targets import find_target
from effc.targets.rates import Level, Rates
from tests.unit.passes.recurrent_nets import HIDDEN, INPUTS, delta, fed, layer, paper_gru, paper_lstm, slow

ROUNDING = 2e-6  # of outputs within (-1, 1): sums of 24 products in another order, through some gates, over 300 steps
KINDS = [
    pytest.param("GRU", {"linear_before_reset": 1}, id="gru"),
    pytest.param("GRU", {"linear_before_reset": 0}, id="gru-written-out"),
    pytest.param("LSTM", {}, id="lstm"),
    pytest.param("LSTM", {"input_forget": 1}, id="lstm-written-out"),
    pytest.param("RNN", {}, id="rnn"),
]


def results(program: Program, calls: Tensor) -> Tensor:
    return torch.stack([outputs["y"].reshape(-1, HIDDEN) for outputs in fed(program, calls)]).flatten(0, 1)


def furthest(one: Tensor, other: Tensor) -> float:
    return float((one - other).detach().abs().max())


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize(("kind", "attributes"), KINDS)
def test_threshold_zero_is_the_plain_layer(tmp_path: Path, kind: str, attributes: dict[str, int], steps: int) -> None:
    program = layer(tmp_path, kind, steps, **attributes)
    calls = slow(120).reshape(-1, steps, 1, INPUTS)
    wanted = results(program, calls)
    for refresh in (0, 7):
        changed, (done,) = delta(program, 0.0, refresh=refresh)
        verify(changed, after="delta")
        assert done.label == "cell" and len(done.states) >= 4
        assert {state.input for state in changed.interface.resident} == {*done.states, *([CALLS] if refresh else [])}
        assert furthest(results(changed, calls), wanted) <= ROUNDING


class Layers(nn.Module):
    """Several layers, both directions, a sequence a call."""

    def __init__(self, kind: type[nn.RNNBase], **options: object) -> None:
        super().__init__()
        self.layers = kind(INPUTS, HIDDEN, **options)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, last = self.layers(x)
        return y, last[1] if isinstance(last, tuple) else last


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
def test_layers_inside_a_call(kind: type[nn.RNNBase]) -> None:
    torch.manual_seed(0)
    options = {"num_layers": 2, "bidirectional": True, "batch_first": True, "bias": kind is not nn.RNN}
    module, x = Layers(kind, **options).eval(), torch.stack([slow(3), slow(3).flip(0)])
    program = load_program(module, example_inputs=(x,))
    changed, (done,) = delta(program, 0.0)
    verify(changed, after="delta")
    assert not changed.interface.states and len(done.inputs.differences) == len(done.hidden.differences) == 4 * 3
    assert not any("gru" in str(node.target) or "lstm" in str(node.target) or "rnn" in str(node.target) for node in changed.nodes)
    for got, wanted in zip(changed.call(x), module(x), strict=True):
        assert got.shape == wanted.shape and furthest(got, wanted) <= ROUNDING
    coarse, _ = delta(program, 0.05)
    assert 1e-4 < furthest(coarse.call(x)[0], module(x)[0]) < 0.3


class Step(nn.Module):
    """One step of a GRU a call, batch first: x (N, inputs), h (N, hidden)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.head = nn.GRU(INPUTS, HIDDEN, batch_first=True), nn.Linear(HIDDEN, 3)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        _, h = self.layers(x[:, None], h[None])
        return self.head(h[0]), h[0]


def weights_of(layers: nn.Module) -> list[Tensor]:
    return [getattr(layers, f"{name}_l0").detach() for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]


@pytest.mark.parametrize("threshold", [0.01, 0.1])
def test_a_gru_follows_the_paper(threshold: float) -> None:
    torch.manual_seed(1)
    module, x = Step().eval(), slow(300)
    program = load_program(module, example_inputs=(x[:2], torch.zeros(2, HIDDEN)), states={"h": "output_1"})
    changed, _ = delta(program, threshold)
    got = torch.cat([outputs["output_1"] for outputs in fed(changed, x[:, None])])
    # The paper's sums in float64: an element that lies on the threshold to the last bit could fire in one of them only.
    assert furthest(got, paper_gru(x, weights_of(module.layers), threshold)) < 1e-5
    both, states = torch.stack([x, x.flip(0)], 1), {state.input: torch.zeros(2, *shape[1:]) for state, shape in states_of(changed)}
    apart = torch.cat([outputs["output_1"][1:] for outputs in fed(changed, both, states=states)])
    assert (
        furthest(apart, paper_gru(x.flip(0), weights_of(module.layers), threshold)) < 1e-5
    )  # streams of a batch know nothing of each other


def states_of(program: Program) -> list[tuple[State, tuple[int, ...]]]:
    shapes = {value.name: value.at_batch(1) for value in program.interface.inputs}
    return [(state, shapes[state.input]) for state in program.interface.states]


def test_an_lstm_follows_the_paper() -> None:
    torch.manual_seed(2)
    module, x = Layers(nn.LSTM).eval(), slow(60, speed=0.1)
    program = load_program(module, example_inputs=(x[:, None],))
    changed, _ = delta(program, 0.03)
    assert furthest(changed.call(x[:, None])[0][:, 0], paper_lstm(x, weights_of(module.layers), 0.03)) < 1e-5


def test_what_cannot_be_written_as_steps_stays_dense() -> None:
    class Projected(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.once = nn.LSTM(INPUTS, HIDDEN, proj_size=4), nn.GRU(INPUTS, HIDDEN)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.lstm(x)[0], self.once(x[:1])[0]

    program = load_program(Projected(), example_inputs=(slow(3)[:, None],))
    first, second = recurrent_sites(program)
    assert first.why_not == "it projects its hidden state"
    assert second.why_not.startswith("it makes one step a call from a hidden state that is no state of the program")
    changed, done = delta(program, 0.1)
    assert done == [] and [str(node.target) for node in changed.nodes] == [str(node.target) for node in program.nodes]


@pytest.mark.parametrize("threshold", [-0.1, float("nan"), float("inf")])
def test_thresholds_are_numbers(tmp_path: Path, threshold: float) -> None:
    program = layer(tmp_path)
    with pytest.raises(ConfigError, match=r"cell: thresholds are .* must be finite and at least 0"):
        delta(program, threshold)


def nonzero(program: Program, names: Sequence[str], calls: Tensor) -> float:
    """The share of differences that are not zero, over all calls."""
    counted = total = 0

    class Count(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> object:
            nonlocal counted, total
            value = super().run_node(n)
            if n.name in names:
                counted, total = counted + int(torch.count_nonzero(value)), total + value.numel()
            return value

    stored = [program.tensors[name] for name in program.tensor_names]
    held = {state.input: torch.zeros(shape) for state, shape in states_of(program)}
    for x in calls:
        with torch.no_grad():
            given = {**held, "x": x}
            results = Count(program.exported.graph_module).run(*stored, *(given[value.name] for value in program.interface.inputs))
        outputs = dict(zip((value.name for value in program.interface.outputs), results, strict=True))
        held = {state.input: outputs[state.output] for state in program.interface.states}
    return counted / total


def test_a_slow_signal_makes_zeros(tmp_path: Path) -> None:
    program, calls = layer(tmp_path, "GRU", linear_before_reset=1), slow(600)[:, None, None]
    changed, (done,) = delta(program, 0.05)
    assert furthest(results(changed, calls), results(program, calls)) < 0.08
    assert nonzero(changed, done.inputs.differences, calls) < 0.4
    assert nonzero(changed, done.hidden.differences, calls) < 0.2


def without_residual(program: Program) -> Program:
    """The known bug: what was too small to be multiplied counts as seen."""
    edit = Edit(program)
    for node in edit.nodes:
        if node.target == torch.ops.aten.where.self:
            fires, x, _ = node.args
            node.args = (fires, x, x)
    return edit.done()


def test_what_is_small_is_kept_until_it_has_grown(tmp_path: Path) -> None:
    program, threshold = layer(tmp_path, "GRU", linear_before_reset=1), 0.05
    changed, _ = delta(program, threshold)
    x = 0.5 * (1 - torch.cos(torch.arange(400) / 100))[:, None, None, None].expand(400, 1, 1, INPUTS)  # never 0.005 in one step
    wanted = results(program, x)
    held: dict[str, Tensor] = {}
    for frame in x:
        before = held.get("h", torch.zeros(1, 1, HIDDEN))
        fed(changed, frame[None], states=held)
        assert furthest(frame[0], held["stream.cell.input.seen"]) <= threshold
        assert furthest(before[0], held["stream.cell.hidden.seen"]) <= threshold
    assert furthest(results(changed, x), wanted) < 0.1
    assert furthest(results(without_residual(changed), x), wanted) > 0.3


def drift(program: Program, held: dict[str, Tensor]) -> float:
    """How far the sums are from the products with what was seen, in float64, relative to the largest."""
    weights = {source: program.tensors[name].detach().double() for name, source in program.tensor_names.items()}
    far = []
    for role, source in (("input", "layers.weight_ih_l0"), ("hidden", "layers.weight_hh_l0")):
        exact = held[f"stream.layers.{role}.seen"].double() @ weights[source].T
        far.append(float((held[f"stream.layers.{role}.sum"].double() - exact).abs().max() / exact.abs().max()))
    return max(far)


@pytest.mark.parametrize(
    ("steps", "refresh", "limit"), [pytest.param(10_000, 0, 1e-5, marks=pytest.mark.slow), pytest.param(1_000, 100, 1e-6)]
)
def test_sums_do_not_drift_on_a_random_walk(steps: int, refresh: int, limit: float) -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(steps, 1, INPUTS)
    for step in range(1, steps):
        x[step] = (0.999 * x[step - 1] + 0.05 * torch.randn(1, INPUTS, generator=generator)).clamp(-2, 2)
    module = Step().eval()
    program = load_program(module, example_inputs=(x[:2, 0], torch.zeros(2, HIDDEN)), states={"h": "output_1"})
    with torch.no_grad():
        wanted = module.layers(x.transpose(0, 1))[0][0]
    changed, _ = delta(program, 0.0, refresh=refresh)
    held: dict[str, Tensor] = {}
    got = torch.cat([outputs["output_1"] for outputs in fed(changed, x, states=held)])
    assert drift(changed, held) < limit and furthest(got, wanted) < limit
    assert not refresh or int(held[CALLS]) == refresh  # it counted 1, ..., 100, 1, ... and has come to 100 again


def test_compiled_code_skips_what_did_not_change(tmp_path: Path) -> None:
    program = layer(tmp_path, "GRU", linear_before_reset=1)
    changed, (done,) = delta(program, 0.05, refresh=50)
    seen = {name: ValueFacts(-1.0, 1.0, 0.2, 1) for name in (*done.inputs.differences, *done.hidden.differences)}
    changed = changed.with_facts(changed.facts.with_values(seen))
    rates = Rates(Level(1e-9, 1e9, 0.0), Level(1e-9, 1e9, 0.0), 0.0)  # of a machine on which skipping always pays
    lowered = lower(changed, replace(find_target("cpu"), runs_here=True, rates=rates))
    assert [step.family for step in lowered.plan.steps].count("skipping") == 2
    held: dict[str, Tensor] = {}
    for x in slow(20, speed=0.05)[:, None, None]:
        before = dict(held)
        (wanted,) = fed(changed, x[None], states=held)
        if before:  # the first call has its states from `fed`
            got = run_lowered(lowered, changed, {name: value.numpy() for name, value in {"x": x, **before}.items()})
            for name, value in wanted.items():
                np.testing.assert_allclose(got[name], value.numpy(), rtol=0, atol=2e-6)


# ---- thresholds from data ------------------------------------------------------------------------------------------------------------

PASS = FoldConstants()  # any pass: it lends its name to the log


def fitted(program: Program, calls: Tensor, rule: RecurrentRule, *, rates: Rates | None = None) -> tuple[Program, Context]:
    target = None if rates is None else replace(find_target("cpu"), rates=rates)
    context = Context(fit=Dataset({"x": calls.numpy()}), target=target)
    return stream_recurrent(PASS, program, program, context, rule), context


def test_a_level_is_a_share_of_the_largest_magnitude(tmp_path: Path) -> None:
    program, calls = layer(tmp_path, "GRU", linear_before_reset=1), 3 * slow(200)[:, None]
    assert is_recurrent(program)
    found, context = fitted(program, calls, RecurrentRule(level=0.05, max_error=None))
    (decision,) = context.decisions
    states = [outputs["h_next"] for outputs in fed(program, calls[:-1, None])]
    limits = (
        f"thresholds {0.05 * float(calls.abs().max()):.4g} for inputs and {0.05 * float(torch.stack(states).abs().max()):.4g} for hidden"
    )
    assert decision.done and decision.site == "cell" and decision.why.startswith(limits)
    densities = [found.facts.values[node.name].density for node in found.nodes if node.target == SPARSIFY.overload]
    assert len(densities) == 2 and all(0 < density < 0.5 for density in densities)


def test_the_largest_level_within_the_bound_is_taken(tmp_path: Path) -> None:
    program, calls = layer(tmp_path, "LSTM"), slow(60, speed=0.05)[:, None]
    wanted = results(program, calls[:, None])
    errors = []
    for bound in (0.1, 0.02):
        found, _ = fitted(program, calls, RecurrentRule(level=None, max_error=bound))
        errors.append(furthest(results(found, calls[:, None]), wanted) / float(wanted.abs().max()))
        assert bound / 8 < errors[-1] <= bound
    assert errors[1] < errors[0]
    found, context = fitted(program, calls, RecurrentRule(level=None, max_error=1e-9))
    assert found is program and "the outputs' error is over" in context.decisions[0].why


def test_layers_that_do_not_gain_stay_dense(tmp_path: Path) -> None:
    program, calls = layer(tmp_path), slow(50)[:, None]
    never = Rates(Level(1e9, 1e-9, 0.0), Level(1e9, 1e-9, 0.0), 0.0)
    found, context = fitted(program, calls, RecurrentRule(level=0.05, max_error=None), rates=never)
    assert found is program and context.decisions[0].why.startswith("stays dense: no product is predicted to be faster (density ")
    insisted, _ = fitted(program, calls, RecurrentRule(level=0.05, max_error=None, insist=True), rates=never)
    assert insisted.interface.resident


def test_thresholds_need_data(tmp_path: Path) -> None:
    program = layer(tmp_path)
    with pytest.raises(DataError, match="need data: give --data"):
        stream_recurrent(PASS, program, program, Context(), RecurrentRule(level=0.1, max_error=None))
