"""`effc::matmul_integer`: products of quantised matrices as int32, as ONNX MatMulInteger.

    y = (a - a_zero_point) @ (b - b_zero_point)     int32, sums modulo 2^32

`a_zero_point` is a scalar or one entry a row of a; `b_zero_point` is a scalar or one entry a column of b.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from effc.ir.ops.base import Cost, OpDef
from effc.ir.ops.quantised import accumulated, along, bytes_of, centred

__all__ = ["MATMUL_INTEGER", "exact_product"]


def exact_product(a: Tensor, a_zero_point: Tensor, b: Tensor, b_zero_point: Tensor) -> Tensor:
    """The float64 sums of the product."""
    rows = along(a_zero_point, a.ndim, a.ndim - 2) if a.ndim > 1 else along(a_zero_point, 0, 0)
    columns = along(b_zero_point, b.ndim, b.ndim - 1) if b.ndim > 1 else along(b_zero_point, 0, 0)
    return torch.matmul(centred(a, rows), centred(b, columns))


def _reference(a: Tensor, b: Tensor, a_zero_point: Tensor, b_zero_point: Tensor) -> Tensor:
    return accumulated(exact_product(a, a_zero_point, b, b_zero_point))


def _cost(a: Tensor, b: Tensor, a_zero_point: Tensor, b_zero_point: Tensor) -> Cost:
    columns = int(b.shape[-1]) if b.ndim > 1 else 1
    outer = max(int(a.numel()) // max(int(a.shape[-1]), 1), int(b.numel()) // max(int(a.shape[-1]) * columns, 1))
    return Cost(macs=outer * int(a.shape[-1]) * columns, bytes=bytes_of(a, b) + 4 * outer * columns)


def _onnx() -> Callable[..., Any]:
    from onnxscript import opset18 as op

    def matmul_integer(a: Any, b: Any, a_zero_point: Any, b_zero_point: Any) -> Any:
        return op.MatMulInteger(a, b, a_zero_point, b_zero_point)

    return matmul_integer


MATMUL_INTEGER = OpDef(
    name="matmul_integer",
    schema="(Tensor a, Tensor b, Tensor a_zero_point, Tensor b_zero_point) -> Tensor",
    reference=_reference,
    fake=_reference,
    cost=_cost,
    onnx=_onnx,
    summary="product of quantised matrices, accumulated in int32",
)
