"""`Bound`: hard in evaluation and when frozen, smooth while it trains, hard in every exported program."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from effc.errors import ConfigError, UsageError
from effc.frontends.torch import load_module
from effc.ir.ops.bound import BOUND, smooth_bound
from effc.nn import Bound

INF, NAN = math.inf, math.nan
X = torch.tensor([[-INF, -1.0, 0.5, 2.0, 2.1, INF, NAN]])


def test_hard_and_smooth() -> None:
    layer = Bound(2.0)
    assert torch.equal(layer(X), smooth_bound(X, None, layer.upper, "zero"))
    hard = torch.tensor([[0.0, 0.0, 0.5, 2.0, 0.0, 0.0, 0.0]])
    assert torch.equal(layer.eval()(X), hard)
    layer.train().requires_grad_(False)
    assert torch.equal(layer(X), hard)
    assert list(layer.state_dict()) == ["upper"]  # no number is stored for a lower of 0
    two_sided = Bound(2.0, -0.5, mode="clamp")
    assert two_sided(X).tolist() == [[-0.5, -0.5, 0.5, 2.0, 2.0, 2.0, -0.5]]
    assert Bound(2.0, slope=3.0)(torch.tensor([1.0])).item() == pytest.approx(1 / (1 + math.exp(-1.5)))


def test_neither_an_infinite_input_nor_an_infinite_bound_makes_nan() -> None:
    for upper in (2.0, INF, torch.tensor([2.0, INF, 0.0, 1.0, INF, INF, 2.0])):
        layer = Bound(upper)
        y = layer(X)
        y.sum().backward()
        assert torch.isfinite(y).all() and torch.isfinite(layer.upper.grad).all()  # type: ignore[arg-type]
        assert not torch.isnan(layer.eval()(X)).any()


def test_bounds_are_per_layer_channel_or_neuron_and_never_per_sample() -> None:
    x = torch.arange(24.0).reshape(2, 3, 2, 2)
    for shape in ((), (3, 1, 1), (3, 2, 2)):
        upper = 5 + torch.arange(float(math.prod(shape))).reshape(shape)
        assert torch.equal(Bound(upper).eval()(x), torch.where(x <= upper, x, 0.0))
    for shape in ((2, 3, 2, 2), (2,), (2, 1, 1), (3, 2, 1, 1)):
        with pytest.raises(UsageError, match="upper has the shape"):
            Bound(torch.ones(shape))(x)
    with pytest.raises(UsageError, match="lower has the shape"):
        Bound(1.0, -torch.ones(2))(x)


@pytest.mark.parametrize(
    ("upper", "options"),
    [
        (1.0, {"mode": "wrap"}),
        (1.0, {"slope": 0.0}),
        (-1.0, {}),
        (NAN, {}),
        (torch.tensor([1, 2]), {}),
        (1.0, {"lower": 2.0, "mode": "clamp"}),
        (2.0, {"lower": 1.0}),
        (torch.ones(3), {"lower": -torch.ones(2)}),
    ],
)
def test_arguments_out_of_range_are_refused(upper: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="Bound: "):
        Bound(upper, **options)


@pytest.mark.parametrize("lower", [None, -1.0])
def test_a_program_holds_the_hard_form_whatever_was_trained(lower: float | None) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 6, 3), Bound(torch.full((6, 1, 1), 0.2), lower)).train()
    program = load_module(module, (torch.randn(2, 3, 5, 5),))
    assert program.interface.batch.symbolic, program.interface.batch.reason
    assert [node.target for node in program.nodes if "conv" not in str(node.target)] == [BOUND.overload]
    x = torch.randn(3, 3, 5, 5)
    assert torch.equal(program.run({"input": x})["output"], module.eval()(x))
    names = {name for name in program.tensor_names.values() if name.startswith("1.")}
    assert names == ({"1.upper"} if lower is None else {"1.upper", "1.lower"})  # ordinary parameters, which faults can hit
