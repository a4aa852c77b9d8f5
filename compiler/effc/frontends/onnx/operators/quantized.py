"""Quantised operators, of ONNX and of onnxruntime's domain com.microsoft, with their integer meaning kept.

Convolutions, matrix products, sums and global means become one effc op each (int32 accumulation, ties to even). The elementwise and
pooling operators of com.microsoft are defined as dequantise, compute in float32, quantise; that is how they are written here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from effc.frontends.onnx.operators import pooling
from effc.frontends.onnx.operators.base import Node, Operator, Unsupported, Value
from effc.frontends.onnx.operators.values import dtype_of, normal_axis, tensor
from effc.frontends.onnx.operators.windows import window_of

__all__ = ["OPERATORS"]

_ops = torch.ops.effc
_QUANTISED = (torch.uint8, torch.int8, torch.uint16, torch.int16)
_MICROSOFT = "com.microsoft"
_EIGHT_BITS = "quantise to int8 or uint8 per tensor or per channel"


def _zero_point(given: Value, like: Tensor) -> Tensor:
    """The zero point, or 0 of the dtype of `like`."""
    return torch.zeros((), dtype=like.dtype) if given is None else tensor(given)


def _require_quantised(value: Tensor, what: str) -> None:
    if value.dtype not in _QUANTISED:
        raise Unsupported(f"{what} of type {value.dtype}", _EIGHT_BITS)


def _one(value: Value, what: str) -> Tensor:
    """A scale or zero point that must be a single number."""
    found = tensor(value)
    if found.numel() != 1:
        raise Unsupported(f"{what} holds {found.numel()} numbers where one is meant", "quantise activations per tensor")
    return found.reshape(()) if found.ndim else found


def _per_channel(value: Tensor, channels: Any, what: str) -> Tensor:
    if value.numel() != 1 and (value.ndim != 1 or value.shape[0] != channels):
        raise Unsupported(f"{what} of shape {list(value.shape)} for {channels} channels", _EIGHT_BITS)
    return value.reshape(()) if value.numel() == 1 and value.ndim else value


def _axis(node: Node, scale: Tensor, dims: int) -> int:
    """The channel axis; 0 where scale and zero point are single numbers."""
    if node.get("block_size", 0) or scale.ndim > 1:
        raise Unsupported("blocked quantisation", _EIGHT_BITS)
    if scale.numel() == 1:
        return 0
    return normal_axis(int(node.get("axis", 1)), dims)


def quantize_linear(node: Node, x: Value, scale: Value, zero_point: Value = None) -> Tensor:
    x, scale = tensor(x), tensor(scale)
    number = int(node.get("output_dtype", 0))
    dtype = dtype_of(number) if number else torch.uint8
    zero = torch.zeros((), dtype=dtype) if zero_point is None else tensor(zero_point)
    _require_quantised(zero, "a result")
    if x.is_floating_point() and scale.dtype != x.dtype:
        raise Unsupported(f"a scale of {scale.dtype} for an input of {x.dtype}", "give both one type")
    precision = int(node.get("precision", 0))
    if precision and dtype_of(precision) != scale.dtype:
        raise Unsupported(f"a division in {dtype_of(precision)} of an input of {x.dtype}", "leave out `precision`")
    axis = _axis(node, scale, x.ndim)
    result: Tensor = _ops.quantize_linear(x, scale, zero, axis)
    return result


def dequantize_linear(node: Node, x: Value, scale: Value, zero_point: Value = None) -> Tensor:
    x, scale = tensor(x), tensor(scale)
    if x.dtype not in (*_QUANTISED, torch.int32):
        raise Unsupported(f"an input of type {x.dtype}", _EIGHT_BITS)
    number = int(node.get("output_dtype", 0))
    if number and dtype_of(number) != scale.dtype:
        raise Unsupported(f"a result of {dtype_of(number)} from a scale of {scale.dtype}", "give both one type")
    result: Tensor = _ops.dequantize_linear(x, scale, _zero_point(zero_point, x), _axis(node, scale, x.ndim))
    return result


def dynamic_quantize_linear(node: Node, x: Value) -> tuple[Tensor, Tensor, Tensor]:
    """uint8 with the scale that the data's range gives: it holds 0, so that 0 is exact. Data of zeros only have scale 1."""
    x = tensor(x)
    low, high = torch.clamp(x.amin(), max=0.0), torch.clamp(x.amax(), min=0.0)
    scale = (high - low) / 255.0
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = torch.clamp(torch.round(-low / scale), 0, 255).to(torch.uint8)
    return _ops.quantize_linear(x, scale, zero, 0), scale, zero


def _geometry(node: Node, x: Tensor, w: Tensor) -> tuple[list[int], list[int], list[int], int]:
    dims = x.ndim - 2
    if dims not in (1, 2, 3):
        raise Unsupported(f"a convolution over {dims} axes", "one to three are covered")
    window = window_of(node, tuple(x.shape[2:]), tuple(w.shape[2:]))
    return list(window.strides), [*window.before, *window.after], list(window.dilations), int(node.get("group", 1))


def conv_integer(node: Node, x: Value, w: Value, x_zero_point: Value = None, w_zero_point: Value = None) -> Tensor:
    x, w = tensor(x), tensor(w)
    x_zero = _one(_zero_point(x_zero_point, x), "the zero point of x")
    w_zero = _per_channel(_zero_point(w_zero_point, w), w.shape[0], "the zero point of w")
    result: Tensor = _ops.conv_integer(x, w, x_zero, w_zero, *_geometry(node, x, w))
    return result


def qlinear_conv(node: Node, *inputs: Value) -> Tensor:
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias = (*inputs, None)[:9]
    x, w = tensor(x), tensor(w)
    y_zero_point = _one(y_zero, "the zero point of y")
    _require_quantised(y_zero_point, "a result")
    result: Tensor = _ops.qlinear_conv(
        x,
        _one(x_scale, "the scale of x"),
        _one(x_zero, "the zero point of x"),
        w,
        _per_channel(tensor(w_scale), w.shape[0], "the scale of w"),
        _per_channel(tensor(w_zero), w.shape[0], "the zero point of w"),
        _one(y_scale, "the scale of y"),
        y_zero_point,
        None if bias is None else tensor(bias),
        *_geometry(node, x, w),
    )
    return result


def matmul_integer(node: Node, a: Value, b: Value, a_zero_point: Value = None, b_zero_point: Value = None) -> Tensor:
    a, b = tensor(a), tensor(b)
    a_zero = _per_channel(_zero_point(a_zero_point, a), a.shape[-2] if a.ndim > 1 else 1, "the zero point of A")
    b_zero = _per_channel(_zero_point(b_zero_point, b), b.shape[-1] if b.ndim > 1 else 1, "the zero point of B")
    result: Tensor = _ops.matmul_integer(a, b, a_zero, b_zero)
    return result


def qlinear_matmul(node: Node, *inputs: Value) -> Tensor:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = inputs
    b = tensor(b)
    return _matmul(tensor(a), a_scale, a_zero, b, b_scale, b_zero, None, y_scale, y_zero)


def _matmul(
    a: Tensor, a_scale: Value, a_zero: Value, b: Tensor, b_scale: Value, b_zero: Value, bias: Value, y_scale: Value, y_zero: Value
) -> Tensor:
    columns = b.shape[-1] if b.ndim > 1 else 1
    y_zero_point = _one(y_zero, "the zero point of Y")
    _require_quantised(y_zero_point, "a result")
    result: Tensor = _ops.qlinear_matmul(
        a,
        _one(a_scale, "the scale of A"),
        _one(a_zero, "the zero point of A"),
        b,
        _per_channel(tensor(b_scale), columns, "the scale of B"),
        _per_channel(tensor(b_zero), columns, "the zero point of B"),
        _one(y_scale, "the scale of Y"),
        y_zero_point,
        None if bias is None else tensor(bias),
    )
    return result


def qgemm(node: Node, *inputs: Value) -> Tensor:
    """A' B' + C in int32; requantised where an output scale is given, else at its float32 value."""
    a, a_scale, a_zero, b, b_scale, b_zero, c, y_scale, y_zero = (*inputs, None, None, None)[:9]
    if float(node.get("alpha", 1.0)) != 1.0:
        raise Unsupported(f"alpha = {node.get('alpha')}", "multiply the scale of B by it")
    a, b = tensor(a), tensor(b)
    a = a.t() if node.get("transA", 0) else a
    b = b.t() if node.get("transB", 0) else b
    if c is not None and (tensor(c).ndim != 1 or tensor(c).shape[0] != b.shape[1]):
        raise Unsupported(f"a C of shape {list(tensor(c).shape)}", "give one entry a column")
    if y_scale is not None:
        return _matmul(a, a_scale, a_zero, b, b_scale, b_zero, c, y_scale, _zero_point(y_zero, a))
    b_zero_point = _per_channel(tensor(b_zero), b.shape[1], "the zero point of B")
    total = _ops.matmul_integer(a, b, _one(a_zero, "the zero point of A"), b_zero_point)
    total = total if c is None else total + tensor(c)
    scale = _one(a_scale, "the scale of A") * _per_channel(tensor(b_scale), b.shape[1], "the scale of B")
    result: Tensor = total.to(torch.float32) * scale
    return result


def qlinear_add(node: Node, *inputs: Value) -> Tensor:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = (*inputs, None)[:8]
    a, b = tensor(a), tensor(b)
    result: Tensor = _ops.qlinear_add(
        a,
        _one(a_scale, "the scale of A"),
        _one(_zero_point(a_zero, a), "the zero point of A"),
        b,
        _one(b_scale, "the scale of B"),
        _one(_zero_point(b_zero, b), "the zero point of B"),
        _one(y_scale, "the scale of C"),
        _one(_zero_point(y_zero, a), "the zero point of C"),
    )
    return result


def qlinear_mul(node: Node, *inputs: Value) -> Tensor:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = (*inputs, None)[:8]
    a, b = tensor(a), tensor(b)
    return _quantised(_real(a, a_scale, a_zero) * _real(b, b_scale, b_zero), y_scale, y_zero, a)


def _real(x: Tensor, scale: Value, zero: Value) -> Tensor:
    result: Tensor = _ops.dequantize_linear(x, _one(scale, "a scale"), _one(_zero_point(zero, x), "a zero point"), 0)
    return result


def _quantised(real: Tensor, scale: Value, zero: Value, like: Tensor) -> Tensor:
    result: Tensor = _ops.quantize_linear(real, _one(scale, "the scale"), _one(_zero_point(zero, like), "the zero point"), 0)
    return result


def _between(compute: Callable[[Node, Tensor], Tensor]) -> Callable[..., Tensor]:
    """An operator that is defined as dequantise, compute, quantise."""

    def function(node: Node, x: Value, x_scale: Value, x_zero: Value, y_scale: Value, y_zero: Value = None) -> Tensor:
        if node.get("channels_last", 0):
            raise Unsupported("channels_last = 1", "export with the channels first")
        x = tensor(x)
        return _quantised(compute(node, _real(x, x_scale, x_zero)), y_scale, y_zero, x)

    return function


def _leaky_relu(node: Node, x: Tensor) -> Tensor:
    return F.leaky_relu(x, float(node.get("alpha", 0.01)))


def _average_pool(node: Node, x: Tensor) -> Tensor:
    result: Tensor = pooling.average_pool(node, x)
    return result


def _softmax(node: Node, x: Tensor) -> Tensor:
    axis = normal_axis(int(node.get("axis", -1)), x.ndim)
    if int(node.get("opset", 13)) < 13 and axis != x.ndim - 1:
        raise Unsupported(f"the softmax of opset {node.get('opset')} over several axes", "convert the model to opset 13")
    return torch.softmax(x, axis)


def qlinear_global_average_pool(node: Node, x: Value, x_scale: Value, x_zero: Value, y_scale: Value, y_zero: Value) -> Tensor:
    if node.get("channels_last", 0):
        raise Unsupported("channels_last = 1", "export with the channels first")
    x = tensor(x)
    result: Tensor = _ops.qlinear_global_average_pool(
        x,
        _one(x_scale, "the scale of X"),
        _one(x_zero, "the zero point of X"),
        _one(y_scale, "the scale of Y"),
        _one(y_zero, "the zero point of Y"),
    )
    return result


def qlinear_concat(node: Node, y_scale: Value, y_zero: Value, *parts: Value) -> Tensor:
    real = [_real(tensor(x), scale, zero) for x, scale, zero in zip(parts[0::3], parts[1::3], parts[2::3], strict=True)]
    axis = normal_axis(int(node.get("axis", 1)), real[0].ndim)
    return _quantised(torch.cat(real, dim=axis), y_scale, y_zero, tensor(parts[0]))


OPERATORS: tuple[Operator, ...] = (
    Operator("ConvInteger", conv_integer, 10, quantised=True),
    Operator("DequantizeLinear", dequantize_linear, 10, quantised=True, stays=True),
    Operator("DequantizeLinear", dequantize_linear, 1, domain=_MICROSOFT, quantised=True, stays=True),
    Operator("DynamicQuantizeLinear", dynamic_quantize_linear, 11, stays=True),
    Operator("MatMulInteger", matmul_integer, 10, quantised=True),
    Operator("QGemm", qgemm, 1, domain=_MICROSOFT, quantised=True),
    Operator("QLinearAdd", qlinear_add, 1, domain=_MICROSOFT, quantised=True),
    Operator("QLinearAveragePool", _between(_average_pool), 1, domain=_MICROSOFT, quantised=True),
    Operator("QLinearConcat", qlinear_concat, 1, domain=_MICROSOFT, quantised=True),
    Operator("QLinearConv", qlinear_conv, 10, quantised=True),
    Operator("QLinearGlobalAveragePool", qlinear_global_average_pool, 1, domain=_MICROSOFT, quantised=True),
    Operator("QLinearLeakyRelu", _between(_leaky_relu), 1, domain=_MICROSOFT, quantised=True),
    Operator("QLinearMatMul", qlinear_matmul, 10, quantised=True),
    Operator("QLinearMul", qlinear_mul, 1, domain=_MICROSOFT, quantised=True),
    Operator("QLinearSigmoid", _between(lambda node, x: torch.sigmoid(x)), 1, domain=_MICROSOFT, quantised=True),
    Operator("QLinearSoftmax", _between(_softmax), 1, domain=_MICROSOFT, quantised=True),
    Operator("QuantizeLinear", quantize_linear, 10, quantised=True, stays=True),
    Operator("QuantizeLinear", quantize_linear, 1, domain=_MICROSOFT, quantised=True, stays=True),
)
