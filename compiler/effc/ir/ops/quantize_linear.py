"""`effc::quantize_linear`: real numbers to 8- or 16-bit integers, as ONNX QuantizeLinear.

    y = saturate(round(x / scale) + zero_point)     ties to even, y has the dtype of zero_point

The division happens in the dtype of x (int32 x: in float32), so that float32 models give the same bits everywhere. NaN becomes the
lowest integer, as in onnxruntime on x86. `scale` and `zero_point` are scalars, or hold one entry a channel along `axis`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from effc.ir.ops.base import Cost, OpDef
from effc.ir.ops.quantised import along, elementwise_cost, quantise

__all__ = ["QUANTIZE_LINEAR"]


def _reference(x: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> Tensor:
    real = x if x.is_floating_point() else x.to(torch.float32)
    steps = real / along(scale, x.ndim, axis).to(real.dtype)
    return quantise(steps, along(zero_point, x.ndim, axis))


def _cost(x: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> Cost:
    return Cost(macs=0, bytes=elementwise_cost(x, scale, zero_point).bytes + int(x.numel()) * zero_point.element_size())


def _onnx() -> Callable[..., Any]:
    from onnxscript import opset18 as op

    def quantize_linear(x: Any, scale: Any, zero_point: Any, axis: int) -> Any:
        return op.QuantizeLinear(x, scale, zero_point, axis=axis)

    return quantize_linear


QUANTIZE_LINEAR = OpDef(
    name="quantize_linear",
    schema="(Tensor x, Tensor scale, Tensor zero_point, int axis) -> Tensor",
    reference=_reference,
    fake=_reference,
    cost=_cost,
    onnx=_onnx,
    summary="real numbers to integers: round(x / scale) + zero_point, ties to even, saturating",
)
