"""`effc::qlinear_matmul`: a matrix product from integers to integers, as ONNX QLinearMatMul, with an optional int32 bias (QGemm).

    acc = (a - a_zero_point) @ (b - b_zero_point) + bias               int32, sums modulo 2^32
    y   = saturate(round(float32(acc) * multiplier) + y_zero_point)    multiplier = (a_scale * b_scale) / y_scale in float32

Ties go to even. `b_scale` and `b_zero_point` are scalars or hold one entry a column of b; all others are scalars. The bias is in steps
of a_scale * b_scale, one entry a column.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from effc.ir.ops.base import Cost, OpDef
from effc.ir.ops.matmul_integer import exact_product
from effc.ir.ops.quantised import accumulated, along, bytes_of, requantise

__all__ = ["QLINEAR_MATMUL"]


def _reference(
    a: Tensor,
    a_scale: Tensor,
    a_zero_point: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero_point: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    sums = exact_product(a, a_zero_point, b, b_zero_point)
    if bias is not None:
        sums = sums + bias.to(torch.float64)
    multiplier = along(a_scale, 0, 0) * along(b_scale, 1, 0) / along(y_scale, 0, 0)
    return requantise(accumulated(sums), multiplier.to(torch.float32), along(y_zero_point, 0, 0))


def _cost(a: Tensor, a_scale: Tensor, a_zero_point: Tensor, b: Tensor, *others: Tensor | None) -> Cost:
    columns = int(b.shape[-1]) if b.ndim > 1 else 1
    outer = max(int(a.numel()) // max(int(a.shape[-1]), 1), int(b.numel()) // max(int(a.shape[-1]) * columns, 1))
    return Cost(macs=outer * int(a.shape[-1]) * columns, bytes=bytes_of(a, b, *others[-1:]) + outer * columns)


def _onnx() -> Callable[..., Any]:
    from onnxscript import opset18 as op

    def qlinear_matmul(
        a: Any, a_scale: Any, a_zero: Any, b: Any, b_scale: Any, b_zero: Any, y_scale: Any, y_zero: Any, bias: Any = None
    ) -> Any:
        # Spelled out rather than QLinearMatMul: that has no bias, and its rounding of the multiplier is left open.
        total = op.MatMulInteger(a, b, a_zero, b_zero)
        total = total if bias is None else op.Add(total, bias)
        multiplier = op.Div(op.Mul(a_scale, b_scale), y_scale)
        one = op.Constant(value_float=1.0)
        return op.QuantizeLinear(op.Mul(op.Cast(total, to=1), multiplier), one, y_zero)

    return qlinear_matmul


QLINEAR_MATMUL = OpDef(
    name="qlinear_matmul",
    schema=(
        "(Tensor a, Tensor a_scale, Tensor a_zero_point, Tensor b, Tensor b_scale, Tensor b_zero_point, "
        "Tensor y_scale, Tensor y_zero_point, Tensor? bias=None) -> Tensor"
    ),
    reference=_reference,
    fake=_reference,
    cost=_cost,
    onnx=_onnx,
    summary="matrix product from integers to integers: int32 sums, float32 multiplier, ties to even",
)
