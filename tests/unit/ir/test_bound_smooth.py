"""The form of a bound that trains, a bound without a lower, and the switch between hard and smooth in a program."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from effc.ir import Batch, Edit, Program, Provenance
from effc.ir.ops.bound import BOUND, bound_in_training, smooth_bound
from effc.ir.storage import load_program_bytes, save_program

INF, NAN = math.inf, math.nan
bound = torch.ops.effc.bound


@pytest.mark.parametrize("mode", ["clamp", "zero"])
def test_no_lower_is_a_lower_of_zero(mode: str) -> None:
    x = torch.tensor([-INF, -1.0, -0.0, 0.5, 2.0, 2.1, INF, NAN], requires_grad=True)
    upper = torch.tensor(2.0, requires_grad=True)
    results = []
    for lower in (None, torch.tensor(0.0)):
        y = bound(x, lower, upper, mode)
        results.append((y, *torch.autograd.grad(y.sum(), (x, upper))))
    for without, given in zip(*results, strict=True):
        assert torch.equal(without, given)
    torch.library.opcheck(bound.default, (torch.randn(2, 3), None, torch.rand(3, requires_grad=True), mode))


def test_a_bound_that_is_not_stored_costs_no_bytes() -> None:
    assert BOUND.cost(torch.empty(1, 8, 4, 4), None, torch.empty(8, 1, 1), "zero").bytes == (2 * 128 + 8) * 4


# ---- the smooth form -------------------------------------------------------------------------------------------------------------


def test_at_a_bound_of_one_it_is_the_papers_formula() -> None:
    x = torch.linspace(0, 3, 301, dtype=torch.float64)
    paper = (x - x * torch.sigmoid(20 * (x - 1))).clamp_min(0)
    torch.testing.assert_close(smooth_bound(x, None, torch.tensor(1.0, dtype=torch.float64), "zero"), paper, rtol=1e-12, atol=1e-12)


def test_it_is_the_same_at_every_scale_where_the_papers_is_not() -> None:
    """With a slope in absolute units a bound of 0.1 takes a quarter of values at its half, and one of 100 has no gradient at 0.9 of it."""
    x = torch.tensor([0.25, 0.5, 0.9, 1.0, 1.5], dtype=torch.float64)
    one = smooth_bound(x, None, torch.tensor(1.0, dtype=torch.float64), "zero")
    for scale in (1e-30, 0.1, 100.0, 1e30):
        upper = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
        y = smooth_bound(scale * x, None, upper, "zero")
        torch.testing.assert_close(y / scale, one, rtol=1e-12, atol=0)
        (grad,) = torch.autograd.grad(y[2], upper)
        passed = 1 / (1 + math.exp(-2.0))
        assert grad.item() == pytest.approx(20 * passed * (1 - passed) * 0.81)  # 1.70 at every scale

    def paper(value: Tensor, b: Tensor) -> Tensor:
        return value * torch.sigmoid(20 * (b - value))

    assert paper(torch.tensor(0.05), torch.tensor(0.1)).item() / 0.05 == pytest.approx(0.731, abs=1e-3)
    hundred = torch.tensor(100.0, requires_grad=True)
    paper(torch.tensor(90.0), hundred).backward()
    assert hundred.grad is not None and hundred.grad.item() < 1e-30


def test_it_is_never_nan() -> None:
    """inf * sigmoid(-inf) and inf / inf are NaN in the plain formula, and NaN takes the network with it."""
    x = torch.tensor([-INF, -1.0, 0.0, 1e-40, 1.0, 3e38, INF, NAN], requires_grad=True)
    for value in (0.0, 1e-45, 1e-38, 1.0, 3e38, INF, -1.0):
        upper = torch.tensor(value, requires_grad=True)
        y = smooth_bound(x, None, upper, "zero")
        grads = torch.autograd.grad(y.sum(), (x, upper))
        assert all(torch.isfinite(one).all() for one in (y, *grads)), value
        assert y[[0, 1, 2, 6, 7]].tolist() == [0.0] * 5
    assert smooth_bound(x, None, torch.tensor(INF), "zero")[[4, 5]].tolist() == [1.0, pytest.approx(3e38)]  # no bound
    lower = torch.tensor(-0.5, requires_grad=True)
    y = smooth_bound(x, lower, torch.tensor(1.0), "zero")
    assert y[[0, 6, 7]].tolist() == [0.0, 0.0, -0.5]  # as in the hard form
    (grad,) = torch.autograd.grad(y[[0, 6, 7]].sum(), lower)
    assert grad.item() == 1.0


def test_its_gradients_are_those_of_the_formula_and_stay_within_a_channel_or_neuron() -> None:
    generator = torch.Generator().manual_seed(0)
    x = (2 * torch.randn(3, 2, 2, 3, generator=generator, dtype=torch.float64)).requires_grad_()
    for shape in ((), (2, 1, 1), (2, 2, 3)):
        upper = (1 + torch.rand(shape, generator=generator, dtype=torch.float64)).requires_grad_()
        lower = (-1 - torch.rand(shape, generator=generator, dtype=torch.float64)).requires_grad_()
        assert torch.autograd.gradcheck(lambda x, upper: smooth_bound(x, None, upper, "zero", 5.0), (x, upper))
        assert torch.autograd.gradcheck(lambda x, lower, upper: smooth_bound(x, lower, upper, "zero", 5.0), (x, lower, upper))
    neuron = torch.full((2, 2, 3), 2.0, dtype=torch.float64, requires_grad=True)
    one = torch.zeros_like(x)
    one[1, 0, 1, 2] = 2.0
    smooth_bound(one, None, neuron, "zero").sum().backward()
    expected = torch.zeros_like(neuron)
    expected[0, 1, 2] = 20 * 0.25  # at the bound, for this neuron alone
    assert neuron.grad is not None and torch.equal(neuron.grad, expected)


def test_clamp_is_trainable_as_it_is() -> None:
    x, upper = torch.tensor([0.5, 3.0]), torch.tensor(2.0, requires_grad=True)
    y = bound_in_training(x, None, upper, "clamp", training=True)
    assert y.tolist() == [0.5, 2.0]
    y.sum().backward()
    assert upper.grad is not None and upper.grad.item() == 1.0
    with pytest.raises(ValueError, match="mode is 'wrap'"):
        smooth_bound(x, None, upper, "wrap")


# ---- in a program ----------------------------------------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.drop, self.last = nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.drop(torch.relu(self.norm(self.first(x)))))


@pytest.fixture(scope="module")
def program() -> Program:
    """A net with a one-sided bound of 1 in mode `zero` behind its ReLU."""
    torch.manual_seed(0)
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    exported = torch.export.export(Net().eval(), (torch.zeros(2, 3),), dynamic_shapes=shapes)
    edit = Edit(Program.from_exported(exported, Provenance("net", "torch", "0"), batch=Batch(True)))
    relu = next(node for node in edit.nodes if node.target == torch.ops.aten.relu.default)
    upper = edit.add_tensor("relu.upper", torch.tensor(1.0))
    new = edit.call(BOUND.overload, (relu, None, upper, "zero"), like=relu)
    edit.replace(relu, new, but_not={new})
    return edit.done()


X = torch.tensor([[0.3, -1.2, 0.8], [2.0, 1.0, -2.0], [-3.0, 4.0, 1.0]])


def by_hand(state: dict[str, Tensor], smooth: bool) -> Tensor:
    h = X @ state["first.weight"].T + state["first.bias"]
    h = (h - state["norm.running_mean"]) / (state["norm.running_var"] + 1e-5).sqrt() * state["norm.weight"] + state["norm.bias"]
    h, upper = torch.relu(h), state["relu.upper"]
    h = h * torch.sigmoid(20 * (1 - h / upper)) if smooth else torch.where(h <= upper, h, 0.0)
    return h @ state["last.weight"].T + state["last.bias"]


def test_bounds_are_smooth_only_while_they_train(program: Program) -> None:
    module = program.trainable(dropout=False)
    state = module.source_state()
    soft, hard = by_hand(state, True), by_hand(state, False)
    assert not torch.allclose(soft, hard, atol=1e-3)
    torch.testing.assert_close(module(X), hard)
    module.train()
    torch.testing.assert_close(module(X), soft)
    module(X).sum().backward()
    assert module.relu__upper.grad.abs() > 0
    module.relu__upper.requires_grad_(False)
    torch.testing.assert_close(module(X), hard)  # frozen
    module.relu__upper.requires_grad_(True)
    torch.testing.assert_close(module(X), soft)
    torch.testing.assert_close(module.eval()(X), hard)
    module.training = True  # as Lightning does after validation
    torch.testing.assert_close(module(X), soft)
    assert torch.equal(module.source_state()["norm.running_mean"], state["norm.running_mean"])


def test_dropout_stays_off_on_request(program: Program) -> None:
    torch.manual_seed(0)
    off, on = program.trainable(dropout=False).train(), program.trainable().train()
    assert torch.equal(off(X), off(X))
    assert not torch.equal(on(X), on(X))


def test_the_soft_region_does_not_stay_in_what_is_deployed(program: Program) -> None:
    module = program.trainable().train()
    with torch.no_grad():
        module.relu__upper.fill_(0.7)
    trained = load_program_bytes(save_program(program.with_parameters(module.source_state())))
    assert [node.target for node in trained.nodes if "bound" in str(node.target)] == [BOUND.overload]
    assert not any("sigmoid" in str(node.target) for node in trained.nodes)
    torch.testing.assert_close(trained.run({trained.interface.inputs[0].name: X})["output"], by_hand(module.source_state(), False))
