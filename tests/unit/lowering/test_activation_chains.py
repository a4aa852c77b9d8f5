"""Activations one after another behind a product: each is computed once, however often the next one reads it.

The time is no claim but a guard: where a chain doubles with every link, these take minutes, and one case did not end at all.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from effc.lowering.kernels.fused import ANCHOR, Fused
from tests.unit.lowering.test_lowering import lowered_equals_torch

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "mish": functional.mish,
    "softplus": functional.softplus,
    "gelu": functional.gelu,
    "gelu, tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "elu": functional.elu,
    "tanh": torch.tanh,
}


class Chain(nn.Module):
    """A layer for each function, which is behind it."""

    def __init__(self, between: list[Callable[[Tensor], Tensor]], layer: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        self.between, self.layers = between, nn.ModuleList(layer(5, 7) for _ in between)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(function(layer(x)) for layer, function in zip(self.layers, self.between, strict=True))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_pairs(name: str) -> None:
    torch.manual_seed(0)
    pairs = [lambda x, then=then: then(ACTIVATIONS[name](x)) for then in ACTIVATIONS.values()]
    lowered = lowered_equals_torch(Chain(pairs, nn.Linear), torch.randn(3, 5))
    assert lowered.plan is not None
    assert {step.family for step in lowered.plan.steps} == {"matmul"}


def test_long_chains_and_residual_sums() -> None:
    torch.manual_seed(0)
    long = functools.partial(functools.reduce, lambda y, _: y * torch.sigmoid(y) + 0.1, range(14))
    between = [long, lambda x: functional.silu(functional.silu(x) + x), lambda x: functional.mish(x).clamp(-1, 1)]
    lowered = lowered_equals_torch(Chain(between, lambda a, b: nn.Conv2d(a, b, 3)), torch.randn(1, 5, 6, 6))
    assert lowered.plan is not None
    assert [step.family for step in lowered.plan.steps if step.macs] == ["conv"] * 3


def test_an_element_that_two_read_is_bound_once() -> None:
    from tvm import te, tirx

    x = te.placeholder((8,), name="x")
    doubled = te.compute((8,), lambda i: x[i] * 2.0, name="doubled", attrs={ANCHOR: "none"})
    squared = te.compute((8,), lambda i: doubled[i] * doubled[i], name="squared")
    summed = te.compute((8,), lambda i: squared[i] + squared[i] + doubled[i], name="summed")
    fused = Fused(te.create_prim_func([x, summed]))
    expression = fused.value(fused.result, [tirx.Var("place", "int32")])
    assert str(expression.var.name) == "doubled"
    assert str(expression.body.var.name) == "squared"
    assert not isinstance(expression.body.body, tirx.Let)


def test_nothing_moves_out_of_a_branch() -> None:
    """There it would be read where its condition does not hold: beyond the end of a buffer."""
    from tvm import te, tirx

    x = te.placeholder((8,), name="x")
    doubled = te.compute((8,), lambda i: x[i] * 2.0, name="doubled", attrs={ANCHOR: "none"})
    padded = te.compute((9,), lambda i: tirx.if_then_else(i < 8, doubled[i] * doubled[i], tirx.const(0.0, "float32")), name="padded")
    fused = Fused(te.create_prim_func([x, padded]))
    expression = fused.value(fused.result, [tirx.Var("place", "int32")])
    assert "if_then_else" in str(expression.op)
