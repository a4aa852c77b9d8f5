"""`effc::qlinear_add`: a sum from integers to integers, as onnxruntime's QLinearAdd. All scales and zero points are scalars.

    y = saturate(round(((a - a_zero_point) * a_scale + (b - b_zero_point) * b_scale) / y_scale) + y_zero_point)

Every operation is one float32 operation, in this order, ties to even: the same bits as DequantizeLinear, Add, QuantizeLinear.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from effc.ir.ops.base import Cost, OpDef
from effc.ir.ops.quantised import along, bytes_of, quantise

__all__ = ["QLINEAR_ADD"]


def _real(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    steps = x.to(torch.int32) - along(zero_point, 0, 0).to(torch.int32)
    return steps.to(torch.float32) * along(scale, 0, 0)


def _reference(
    a: Tensor,
    a_scale: Tensor,
    a_zero_point: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero_point: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor,
) -> Tensor:
    total = _real(a, a_scale, a_zero_point) + _real(b, b_scale, b_zero_point)
    return quantise(total / along(y_scale, 0, 0), along(y_zero_point, 0, 0))


def _cost(a: Tensor, a_scale: Tensor, a_zero_point: Tensor, b: Tensor, *others: Tensor) -> Cost:
    elements = math.prod(torch.broadcast_shapes(a.shape, b.shape))  # type: ignore[no-untyped-call]
    return Cost(macs=0, bytes=bytes_of(a, b) + elements * others[-1].element_size())


def _onnx() -> Callable[..., Any]:
    from onnxscript import opset18 as op

    def qlinear_add(a: Any, a_scale: Any, a_zero: Any, b: Any, b_scale: Any, b_zero: Any, y_scale: Any, y_zero: Any) -> Any:
        total = op.Add(op.DequantizeLinear(a, a_scale, a_zero), op.DequantizeLinear(b, b_scale, b_zero))
        return op.QuantizeLinear(total, y_scale, y_zero)

    return qlinear_add


QLINEAR_ADD = OpDef(
    name="qlinear_add",
    schema=(
        "(Tensor a, Tensor a_scale, Tensor a_zero_point, Tensor b, Tensor b_scale, Tensor b_zero_point, "
        "Tensor y_scale, Tensor y_zero_point) -> Tensor"
    ),
    reference=_reference,
    fake=_reference,
    cost=_cost,
    onnx=_onnx,
    summary="sum from integers to integers, each step in float32, ties to even",
)
