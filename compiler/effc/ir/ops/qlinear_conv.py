"""`effc::qlinear_conv`: a convolution from integers to integers, as ONNX QLinearConv.

    acc = conv(x - x_zero_point, w - w_zero_point) + bias              int32, sums modulo 2^32; padding holds x_zero_point
    y   = saturate(round(float32(acc) * multiplier) + y_zero_point)    multiplier = (x_scale * w_scale) / y_scale in float32

Ties go to even. `w_scale` and `w_zero_point` are scalars or hold one entry an output channel; all others are scalars. The bias is in
steps of x_scale * w_scale, one entry an output channel. `padding` lists the pads before every axis, then those behind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from effc.ir.ops.base import Cost, OpDef
from effc.ir.ops.conv_integer import convolution_cost
from effc.ir.ops.quantised import accumulated, along, convolve, requantise

__all__ = ["QLINEAR_CONV"]


def _reference(
    x: Tensor,
    x_scale: Tensor,
    x_zero_point: Tensor,
    w: Tensor,
    w_scale: Tensor,
    w_zero_point: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    sums = convolve(x, x_zero_point, w, w_zero_point, stride, padding, dilation, groups)
    if bias is not None:
        sums = sums + along(bias, x.ndim, 1).to(torch.float64)
    multiplier = along(x_scale, 0, 0) * along(w_scale, x.ndim, 1) / along(y_scale, 0, 0)
    return requantise(accumulated(sums), multiplier.to(torch.float32), along(y_zero_point, 0, 0))


def _cost(
    x: Tensor,
    x_scale: Tensor,
    x_zero_point: Tensor,
    w: Tensor,
    w_scale: Tensor,
    w_zero_point: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Cost:
    return convolution_cost(x, w, stride, padding, dilation, y_zero_point.element_size())


def _onnx() -> Callable[..., Any]:
    from onnxscript import opset18 as op

    def qlinear_conv(
        x: Any, x_scale: Any, x_zero: Any, w: Any, w_scale: Any, w_zero: Any, y_scale: Any, y_zero: Any, bias: Any = None,
        stride: Any = (), padding: Any = (), dilation: Any = (), groups: int = 1,
    ) -> Any:  # fmt: skip
        geometry = {"strides": list(stride), "pads": list(padding), "dilations": list(dilation), "group": groups}
        if bias is None:
            return op.QLinearConv(x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, **geometry)
        return op.QLinearConv(x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias, **geometry)

    return qlinear_conv


QLINEAR_CONV = OpDef(
    name="qlinear_conv",
    schema=(
        "(Tensor x, Tensor x_scale, Tensor x_zero_point, Tensor w, Tensor w_scale, Tensor w_zero_point, "
        "Tensor y_scale, Tensor y_zero_point, Tensor? bias, int[] stride, int[] padding, int[] dilation, int groups) -> Tensor"
    ),
    reference=_reference,
    fake=_reference,
    cost=_cost,
    onnx=_onnx,
    summary="convolution from integers to integers: int32 sums, float32 multiplier, ties to even",
)
