"""`FATReLU`: exact values and gradients of every form, thresholds per channel, training, export."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from effc.errors import ConfigError, UsageError
from effc.frontends.torch import load_module
from effc.nn import FATReLU, hoyer_square

X = [-1.0, 0.0, 0.25, 0.5, 0.75, 1.0, 2.0]  # the threshold is 1, the sharpness 2: the ramp of `piecewise` begins at 0.5


def exponential(x: float) -> float:
    return x * math.exp(2 * (x - 1))


def sigmoid(x: float) -> float:
    return x / (1 + math.exp(2 * (1 - x)))


FORMS = {
    "hard": ([0, 0, 0, 0, 0, 1, 2], 0.0),
    "piecewise": ([0, 0, 0, 0, 0.5, 1, 2], -1.0),  # d/dt [t + 2 (x - t)] = -1 at x = 0.75 alone
    "sigmoid": ([0, 0, *map(sigmoid, X[2:])], -2 * sum(sigmoid(x) * (1 - sigmoid(x) / x) for x in X[2:])),
    "exponential": ([0, 0, *map(exponential, X[2:5]), 1, 2], -2 * sum(map(exponential, X[2:5]))),
}


@pytest.mark.parametrize("form", FORMS)
def test_values_and_the_threshold_s_gradient(form: str) -> None:
    expected, gradient = FORMS[form]
    layer = FATReLU(1.0, form=form, sharpness=2.0).double()
    x = torch.tensor(X, dtype=torch.float64)
    assert layer(x).tolist() == pytest.approx(expected, abs=1e-12)
    assert layer.threshold.requires_grad == (form != "hard")
    if form != "hard":
        # 1.0 == t lies on the kink of `exponential`; leave it out of the comparison
        away = x[x != 1.0]
        layer(away).sum().backward()
        at_one = -2 * sigmoid(1.0) * (1 - sigmoid(1.0)) if form == "sigmoid" else 0.0
        assert layer.threshold.grad.item() == pytest.approx(gradient - at_one, abs=1e-12)
    assert layer.eval()(x).tolist() == FORMS["hard"][0]


@pytest.mark.parametrize("form", ["piecewise", "sigmoid", "exponential"])
def test_soft_forms_tend_to_the_hard_one(form: str) -> None:
    x = torch.linspace(-3, 3, 200)
    x = x[(x - 0.7).abs() > 0.01]
    soft, hard = FATReLU(0.7, form=form, sharpness=5000.0), FATReLU(0.7)
    assert torch.allclose(soft(x), hard(x), atol=1e-6)


def test_thresholds_follow_the_channel_axis() -> None:
    x = torch.ones(2, 3, 4)
    first, last = FATReLU(0.0, channels=3), FATReLU(0.0, channels=4, channel_axis=-1)
    with torch.no_grad():
        first.threshold.copy_(torch.tensor([0.5, 2.0, 1.0]))
        last.threshold.copy_(torch.tensor([0.5, 2.0, 1.0, 3.0]))
    assert torch.equal(first(x), x * torch.tensor([1.0, 0.0, 1.0]).reshape(3, 1))
    assert torch.equal(last(x), x * torch.tensor([1.0, 0.0, 1.0, 0.0]))
    with pytest.raises(UsageError, match="must hold 3 channels"):
        first(torch.ones(2, 4, 3))
    with pytest.raises(UsageError, match="not be the batch"):
        last(torch.ones(4))


@pytest.mark.parametrize("form", ["piecewise", "sigmoid", "exponential"])
def test_a_sparsity_loss_raises_the_thresholds_of_each_channel(form: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16, 3, 20, generator=generator)
    layer = FATReLU(0.3, channels=3, form=form, sharpness=4.0)
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.01)
    before = layer.eval()(x).count_nonzero()
    layer.train()
    for _ in range(10):
        optimiser.zero_grad()
        hoyer_square(layer(x)).backward()
        optimiser.step()
    assert (layer.threshold > 0.3).all()
    assert layer.eval()(x).count_nonzero() < before


@pytest.mark.parametrize(
    "arguments",
    [
        {"threshold": -0.1},
        {"threshold": math.inf},
        {"threshold": 0.1, "channels": 0},
        {"threshold": 0.1, "channels": 2, "channel_axis": 0},
        {"threshold": 0.1, "form": "softer"},
        {"threshold": 0.1, "form": "piecewise", "sharpness": 1.0},
        {"threshold": 0.1, "form": "sigmoid", "sharpness": 0.0},
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="FATReLU"):
        FATReLU(**arguments)


@pytest.mark.parametrize("channels", [None, 6])
def test_a_program_holds_the_hard_form_whatever_was_trained(channels: int | None) -> None:
    torch.manual_seed(0)
    layer = FATReLU(0.2, channels, form="sigmoid")
    module = nn.Sequential(nn.Conv2d(3, 6, 3), layer).train()
    program = load_module(module, (torch.randn(2, 3, 5, 5),))
    assert program.interface.batch.symbolic, program.interface.batch.reason
    ops = [node for node in program.nodes if node.target == torch.ops.effc.sparsify.default]
    assert [node.args[2] for node in ops] == ["value"]
    x = torch.randn(3, 3, 5, 5)
    assert torch.equal(program.run({"input": x})["output"], module.eval()(x))
    assert "1.threshold" in program.tensor_names.values()  # an ordinary parameter, which faults can hit
