"""FT-ClipAct: what its search finds on a known curve and on real faults, what it may cost, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from effc.data import Dataset
from effc.errors import DataError
from effc.faultsim import rate_accuracy
from effc.frontends import load_program
from effc.ir import Program
from effc.passes.base import Context
from effc.passes.ft_clipact import FtClipact, area
from tests.unit.faultsim.networks import digits, digits_data

QUICK: Mapping[str, Any] = {"rates": (1e-4, 1e-3), "draws": 3, "images": 16, "iterations": 1}


def uppers(program: Program) -> dict[str, float]:
    """Thresholds by the tensor's name."""
    return {name: float(program.tensors[key].detach()) for key, name in program.tensor_names.items() if name.endswith("ft_clipact_upper")}


def context(labels: bool = True) -> Context:
    every = digits_data(160)
    fit, selection = every.part(slice(0, 96)), every.part(slice(96, 160))
    return Context(fit=fit, selection=selection if labels else Dataset(selection.inputs, None))


def test_the_area_is_over_decades() -> None:
    assert area([1e-7, 1e-6, 1e-4], [1.0, 0.5, 0.0]) == pytest.approx((0.75 + 2 * 0.25) / 3)
    assert area([1e-5], [0.75]) == 0.75
    assert area([1e-7, 1e-6, 3e-6, 1e-5, 3e-5], [0.8] * 5) == pytest.approx(0.8)


def test_thresholds_raise_the_curve_and_cost_no_accuracy() -> None:
    """On the bundled network: what the log says is what a campaign measures, and a second run finds the same."""
    here, by = context(), FtClipact(**QUICK)
    result = by(digits().program, here)
    chosen = uppers(result)
    assert here.fit is not None
    assert here.selection is not None
    assert len(chosen) == 3
    nodes = [node for node in result.nodes if str(node.target).startswith("effc.bound")]
    assert [(node.args[1], node.args[3]) for node in nodes] == [(None, "zero")] * 3  # one stored number a layer
    data = here.selection.split(16 / 64, here.seed)[0]
    before, after = (
        area(by.rates, rate_accuracy(one, data, by.rates, 3, batch=128).mean(1).tolist()) for one in (digits().program, result)
    )
    assert after > before + 0.05
    assert f"-> {after:.4f}" in [decision for decision in here.decisions if decision.op][-1].why
    clean = [float(rate_accuracy(one, here.selection, (0.0,), 1)[0, 0]) for one in (digits().program, result)]
    assert clean[1] >= clean[0] - by.max_drop
    assert uppers(by(digits().program, context())) == chosen
    again = context()
    assert uppers(by(result, again)) == chosen
    assert all(decision.why == "is bounded already" for decision in again.decisions)


def _curve(monkeypatch: pytest.MonkeyPatch, best: Mapping[str, float], least: Mapping[str, float]) -> list[dict[str, float]]:
    """A known curve in place of campaigns: it falls with the distance from `best`; thresholds under `least` lose accuracy."""
    asked: list[dict[str, float]] = []

    def measure(self: FtClipact, program: Program, data: Dataset, seed: int) -> float:
        found = uppers(program)
        asked.append(found)
        return 1 - sum(abs(found[name] - best[name]) for name in best) / 100

    def clean(self: FtClipact, program: Program, data: Dataset, seed: int) -> float:
        return 0.9 if all(value >= least.get(name, 0.0) for name, value in uppers(program).items()) else 0.5

    monkeypatch.setattr(FtClipact, "measure", measure)
    monkeypatch.setattr(FtClipact, "clean", clean)
    return asked


def test_the_search_finds_the_top_of_a_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = FtClipact(rates=(1e-6,), draws=1, images=8, iterations=1)
    asked = _curve(monkeypatch, {}, {})
    plain(digits().program, context())
    tops = asked[0]
    assert {name: max(one[name] for one in asked) for name in tops} == tops  # never above the profiled maximum
    first, second, third = tops
    best = {first: 0.4 * tops[first], second: tops[second], third: 0.05 * tops[third]}
    asked = _curve(monkeypatch, best, {})
    found = uppers(FtClipact(rates=(1e-6,), draws=1, images=8, iterations=4, least_gain=0.0)(digits().program, context()))
    assert abs(found[first] - best[first]) < 0.06 * tops[first]
    assert found[second] == tops[second]
    assert abs(found[third] - best[third]) < 0.06 * tops[third]
    assert len(asked) <= 1 + 3 * 4 * 2  # nothing is measured twice
    assert len({tuple(one.values()) for one in asked}) == len(asked)
    asked = _curve(monkeypatch, best, {third: 0.5 * tops[third]})
    found = uppers(FtClipact(rates=(1e-6,), draws=1, images=8, iterations=4, least_gain=0.0)(digits().program, context()))
    assert 0.5 * tops[third] <= found[third] < 0.6 * tops[third]  # the best of those that cost nothing
    assert all(one[third] >= 0.5 * tops[third] for one in asked)  # no campaign for the others


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        nn.init.constant_(self.b.bias, -99.0)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.gelu(self.a(x))
        return self.c(x + torch.relu(self.b(x)))


def test_two_sided_sites_have_a_lower_bound_and_dead_ones_are_not_searched() -> None:
    """Without labels, in fixed point."""
    torch.manual_seed(0)
    program = load_program(Two().eval(), example_inputs=(torch.randn(3, 6),))
    x = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)
    here = Context(fit=Dataset({"x": x[:40]}), selection=Dataset({"x": x[40:]}))
    by = FtClipact(rates=(1e-2,), draws=6, images=20, view="q15.16", max_drop=0.05)
    result = by(program, here)
    bounds = [node for node in result.nodes if str(node.target).startswith("effc.bound")]
    assert [(node.args[1] is None, node.args[3]) for node in bounds] == [(False, "zero"), (True, "zero")]
    stored = {name: float(result.tensors[key].detach()) for key, name in result.tensor_names.items() if "ft_clipact" in name}
    values = nn.functional.gelu(torch.from_numpy(x[:40]) @ program.tensors["p_a_weight"].detach().T + program.tensors["p_a_bias"].detach())
    low, high = next(value for name, value in stored.items() if name.endswith("_lower")), stored[next(iter(sorted(uppers(result))))]
    assert low == pytest.approx(float(values.min()), rel=1e-4)
    assert 0 < high <= float(values.max()) * 1.0001
    assert [decision.why.count("nothing to search") for decision in here.decisions if decision.done] == [0, 1]


def test_options_are_checked() -> None:
    text = "ft-clipact{rates=[1e-06;1e-05],draws=2,view=q15.16}"
    assert FtClipact(rates=(1e-6, 1e-5), draws=2, view="q15.16").spec == text
    for wrong in ({"rates": (0.0,)}, {"rates": ()}, {"points": 2}, {"draws": 0}, {"max_drop": -0.1}, {"view": "float11"}):
        with pytest.raises(ValueError, match=next(iter(wrong)).replace("_", "-").split("-")[0]):
            FtClipact(**wrong)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="--data"):
        FtClipact()(digits().program, Context())
