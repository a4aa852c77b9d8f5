"""`effc::conv_integer`: a convolution of quantised tensors as int32, as ONNX ConvInteger.

    y = conv(x - x_zero_point, w - w_zero_point)     int32, sums modulo 2^32; padding holds x_zero_point

x is (N, C, spatial...), w (M, C / groups, kernel...) over one to three axes. `padding` lists the pads before every axis, then those
behind. `x_zero_point` is a scalar, `w_zero_point` a scalar or one entry an output channel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from effc.ir.ops.base import Cost, OpDef
from effc.ir.ops.quantised import accumulated, bytes_of, convolve

__all__ = ["CONV_INTEGER", "convolution_cost"]


def _reference(
    x: Tensor,
    w: Tensor,
    x_zero_point: Tensor,
    w_zero_point: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    return accumulated(convolve(x, x_zero_point, w, w_zero_point, stride, padding, dilation, groups))


def convolution_cost(
    x: Tensor, w: Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], result_bytes: int
) -> Cost:
    """Cost of a convolution whose result has `result_bytes` bytes an element."""
    dims = x.ndim - 2
    sizes = [
        (int(x.shape[2 + i]) + padding[i] + padding[i + dims] - dilation[i] * (int(w.shape[2 + i]) - 1) - 1) // stride[i] + 1
        for i in range(dims)
    ]
    elements = int(x.shape[0]) * int(w.shape[0]) * math.prod(sizes)
    return Cost(macs=elements * (int(w.numel()) // int(w.shape[0])), bytes=bytes_of(x, w) + elements * result_bytes)


def _cost(
    x: Tensor,
    w: Tensor,
    x_zero_point: Tensor,
    w_zero_point: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Cost:
    return convolution_cost(x, w, stride, padding, dilation, 4)


def _onnx() -> Callable[..., Any]:
    from onnxscript import opset18 as op

    def conv_integer(x: Any, w: Any, x_zero: Any, w_zero: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
        return op.ConvInteger(x, w, x_zero, w_zero, strides=list(stride), pads=list(padding), dilations=list(dilation), group=groups)

    return conv_integer


CONV_INTEGER = OpDef(
    name="conv_integer",
    schema=(
        "(Tensor x, Tensor w, Tensor x_zero_point, Tensor w_zero_point, int[] stride, int[] padding, int[] dilation, int groups) -> Tensor"
    ),
    reference=_reference,
    fake=_reference,
    cost=_cost,
    onnx=_onnx,
    summary="convolution of quantised tensors, accumulated in int32",
)
