"""`effc::dequantize_linear`: integers to real numbers, as ONNX DequantizeLinear: y = (x - zero_point) * scale.

The difference is an exact integer; the product is formed in the dtype of `scale`, which is y's. x has 8 or 16 bits, or is int32 (biases).
`scale` and `zero_point` are scalars, or hold one entry a channel along `axis`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from effc.ir.ops.base import Cost, OpDef
from effc.ir.ops.quantised import along, bytes_of

__all__ = ["DEQUANTIZE_LINEAR"]


def _reference(x: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> Tensor:
    steps = x.to(torch.int32) - along(zero_point, x.ndim, axis).to(torch.int32)
    return steps.to(torch.float32).to(scale.dtype) * along(scale, x.ndim, axis)


def _cost(x: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> Cost:
    return Cost(macs=0, bytes=bytes_of(x, scale, zero_point) + int(x.numel()) * scale.element_size())


def _onnx() -> Callable[..., Any]:
    from onnxscript import opset18 as op

    def dequantize_linear(x: Any, scale: Any, zero_point: Any, axis: int) -> Any:
        return op.DequantizeLinear(x, scale, zero_point, axis=axis)

    return dequantize_linear


DEQUANTIZE_LINEAR = OpDef(
    name="dequantize_linear",
    schema="(Tensor x, Tensor scale, Tensor zero_point, int axis) -> Tensor",
    reference=_reference,
    fake=_reference,
    cost=_cost,
    onnx=_onnx,
    summary="integers to real numbers: (x - zero_point) * scale",
)
