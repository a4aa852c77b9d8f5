"""`effc::bound` at the values where implementations go wrong: the bounds themselves, NaN, infinities, gradients."""

from __future__ import annotations

import math

import pytest
import torch

from effc.ir.ops import OPS
from effc.ir.ops.bound import BOUND

INF, NAN = math.inf, math.nan
X = torch.tensor([-INF, -1.5, -1.0, -0.0, 0.5, 2.0, 2.0000002, 3e38, INF, NAN])


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("clamp", [-1.0, -1.0, -1.0, -0.0, 0.5, 2.0, 2.0, 2.0, 2.0, -1.0]),
        ("zero", [0.0, 0.0, -1.0, -0.0, 0.5, 2.0, 0.0, 0.0, 0.0, -1.0]),
    ],
)
def test_values_equal_to_a_bound_are_kept_and_nan_becomes_lower(mode: str, expected: list[float]) -> None:
    result = torch.ops.effc.bound(X, torch.tensor(-1.0), torch.tensor(2.0), mode)
    assert torch.equal(result, torch.tensor(expected))


def test_bounds_broadcast_per_channel_and_per_neuron_but_never_over_the_batch() -> None:
    x = torch.arange(24.0).reshape(2, 3, 2, 2)
    zero = torch.zeros(())
    channel = torch.tensor([1.0, 6.0, 100.0]).reshape(3, 1, 1)
    assert torch.equal(torch.ops.effc.bound(x, zero, channel, "clamp"), torch.minimum(x, channel))
    neuron = torch.arange(12.0).reshape(3, 2, 2)
    assert torch.equal(torch.ops.effc.bound(x, zero, neuron, "clamp")[1], neuron)


def test_gradients_are_those_of_the_hard_form() -> None:
    x = torch.tensor([[-2.0, 0.5, 5.0, NAN], [1.0, -3.0, 7.0, 0.0]], requires_grad=True)
    lower, upper = torch.tensor(-1.0, requires_grad=True), torch.tensor([1.0, 1.0, 4.0, 1.0], requires_grad=True)
    weight = torch.tensor([[1.0, 2.0, 4.0, 8.0], [16.0, 32.0, 64.0, 128.0]])
    (torch.ops.effc.bound(x, lower, upper, "clamp") * weight).sum().backward()
    assert x.grad is not None
    assert lower.grad is not None
    assert upper.grad is not None
    assert x.grad.tolist() == [[0.0, 2.0, 0.0, 0.0], [16.0, 0.0, 0.0, 128.0]]  # 1.0 == upper is in range
    assert lower.grad.item() == 1.0 + 8.0 + 32.0  # below, NaN, below
    assert upper.grad.tolist() == [0.0, 0.0, 68.0, 0.0]


def test_zero_mode_gives_the_bounds_no_gradient_except_for_nan() -> None:
    x = torch.tensor([-2.0, 0.5, 5.0, NAN], requires_grad=True)
    lower, upper = torch.tensor(0.0, requires_grad=True), torch.tensor(1.0, requires_grad=True)
    torch.ops.effc.bound(x, lower, upper, "zero").sum().backward()
    assert x.grad is not None
    assert lower.grad is not None
    assert upper.grad is not None
    assert (x.grad.tolist(), lower.grad.item(), upper.grad.item()) == ([0.0, 1.0, 0.0, 0.0], 1.0, 0.0)


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="mode is 'wrap'"):
        torch.ops.effc.bound(X, torch.tensor(0.0), torch.tensor(1.0), "wrap")


def test_torch_s_own_checks_of_a_custom_op_hold() -> None:
    inputs = (torch.randn(2, 3, 4), torch.tensor(-1.0, requires_grad=True), torch.rand(3, 1, requires_grad=True), "clamp")
    torch.library.opcheck(torch.ops.effc.bound.default, inputs)


def test_cost_counts_moved_bytes() -> None:
    cost = BOUND.cost(torch.empty(1, 8, 4, 4), torch.empty(()), torch.empty(8, 1, 1), "clamp")
    assert (cost.macs, cost.bytes) == (0, (2 * 128 + 1 + 8) * 4)


def test_no_effc_op_shares_a_name_with_aten() -> None:
    """TVM's importer looks custom ops up without their namespace, so a shared name would replace ATen's op silently."""
    assert [op.name for op in OPS if hasattr(torch.ops.aten, op.name)] == []
