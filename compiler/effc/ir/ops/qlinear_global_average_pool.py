"""`effc::qlinear_global_average_pool`: the mean over all spatial axes from integers to integers, as onnxruntime's operator.

    acc = sum of (x - x_zero_point) over the spatial axes, which stay with size 1       int32, modulo 2^32
    y   = saturate(round(float32(acc) * multiplier) + y_zero_point)                     ties to even
    multiplier = x_scale / (y_scale * count), in float32 in this order, count the number of summed elements

All scales and zero points are scalars. x is (N, C, spatial...).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from effc.ir.ops.base import Cost, OpDef
from effc.ir.ops.quantised import accumulated, along, bytes_of, centred, requantise

__all__ = ["QLINEAR_GLOBAL_AVERAGE_POOL"]


def _reference(x: Tensor, x_scale: Tensor, x_zero_point: Tensor, y_scale: Tensor, y_zero_point: Tensor) -> Tensor:
    sums = centred(x, along(x_zero_point, 0, 0)).sum(dim=list(range(2, x.ndim)), keepdim=True)
    multiplier = along(x_scale, 0, 0) / (along(y_scale, 0, 0) * float(math.prod(x.shape[2:])))
    return requantise(accumulated(sums), multiplier.to(torch.float32), along(y_zero_point, 0, 0))


def _cost(x: Tensor, x_scale: Tensor, x_zero_point: Tensor, y_scale: Tensor, y_zero_point: Tensor) -> Cost:
    return Cost(macs=0, bytes=bytes_of(x) + int(x.shape[0]) * int(x.shape[1]) * y_zero_point.element_size())


def _onnx() -> Callable[..., Any]:
    from onnxscript import opset18 as op

    def qlinear_global_average_pool(x: Any, x_scale: Any, x_zero: Any, y_scale: Any, y_zero: Any) -> Any:
        count = math.prod(x.shape[2:])
        axes = op.Constant(value_ints=list(range(2, len(x.shape))))
        total = op.ReduceSum(op.Sub(op.Cast(x, to=6), op.Cast(x_zero, to=6)), axes, keepdims=1)
        multiplier = op.Div(x_scale, op.Mul(y_scale, op.Constant(value_float=float(count))))
        return op.QuantizeLinear(op.Mul(op.Cast(total, to=1), multiplier), op.Constant(value_float=1.0), y_zero)

    return qlinear_global_average_pool


QLINEAR_GLOBAL_AVERAGE_POOL = OpDef(
    name="qlinear_global_average_pool",
    schema="(Tensor x, Tensor x_scale, Tensor x_zero_point, Tensor y_scale, Tensor y_zero_point) -> Tensor",
    reference=_reference,
    fake=_reference,
    cost=_cost,
    onnx=_onnx,
    summary="mean over the spatial axes from integers to integers: int32 sums, ties to even",
)
