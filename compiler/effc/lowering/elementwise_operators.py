"""Relax operators that compute every element from the elements at its place."""

from __future__ import annotations

__all__ = ["SEVERAL", "UNARY"]


def _operators(names: str) -> frozenset[str]:
    return frozenset(f"relax.{name}" for name in names.split())


# of one tensor, whose shape they keep; further arguments are numbers
UNARY = _operators(
    "abs astype ceil clip cos erf exp floor log logical_not negative round rsqrt sigmoid sign sin sqrt square tanh nn.gelu nn.gelu_tanh"
    " nn.leakyrelu nn.relu nn.selu nn.silu nn.softplus"
)
# of several tensors, which they broadcast
SEVERAL = _operators(
    "add divide equal floor_divide greater greater_equal less less_equal logical_and logical_or maximum minimum mod multiply not_equal"
    " power subtract where"
)
