"""Pooling in one to three dimensions.

torch pads symmetrically and by at most half a kernel; every other geometry is padded by hand first.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from effc.frontends.onnx.operators.base import Node, Operator, Unsupported, Value
from effc.frontends.onnx.operators.values import check_steps, ints, tensor
from effc.frontends.onnx.operators.windows import Window, pad_spatial, window_of

__all__ = ["OPERATORS"]

_MAX: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _window(node: Node, x: Tensor) -> Window:
    dims = x.ndim - 2
    if dims not in _MAX:
        raise Unsupported(f"pooling over {dims} axes", "one to three are covered")
    return window_of(node, tuple(x.shape[2:]), tuple(int(item) for item in node.get("kernel_shape")))


def max_pool(node: Node, x: Value) -> Any:
    given = tensor(x)
    window = _window(node, given)
    x = given if given.is_floating_point() else given.to(torch.float32)
    if given.dtype not in (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.uint8):
        raise Unsupported(f"pooling of {given.dtype}", "use float32 or int8")
    dims = len(window.kernel)
    after = tuple(a + e for a, e in zip(window.after, window.extra, strict=True))
    padding: Any = window.before
    if not window.symmetric or any(2 * p > k for p, k in zip(window.before, window.kernel, strict=True)):
        x, padding = pad_spatial(x, window.before, after, float("-inf")), 0
    wants_indices = len(node.outputs) > 1 and bool(node.outputs[1])
    found = _MAX[dims](x, window.kernel, window.strides, padding, window.dilations, return_indices=wants_indices)
    if not wants_indices:
        return found.to(given.dtype)
    values, flat = found
    return values.to(given.dtype), _onnx_indices(flat, given, window, tuple(x.shape[2:]), bool(node.get("storage_order", 0)))


def _onnx_indices(flat: Tensor, x: Tensor, window: Window, padded: tuple[int, ...], column_major: bool) -> Tensor:
    """Positions within one (padded) plane -> positions within the whole unpadded input."""
    dims = len(window.kernel)
    shift = window.before if padded != tuple(x.shape[2:]) else (0,) * dims
    coordinates: list[Tensor] = []
    for axis in reversed(range(dims)):
        coordinates.insert(0, torch.remainder(flat, padded[axis]) - shift[axis])
        flat = torch.div(flat, padded[axis], rounding_mode="floor")
    order = reversed(range(dims)) if column_major else range(dims)
    position = torch.zeros_like(flat)
    for axis in order:
        position = position * x.shape[2 + axis] + coordinates[axis]
    planes = torch.arange(x.shape[0] * x.shape[1]).reshape(x.shape[0], x.shape[1], *[1] * dims)
    return position + planes * math.prod(x.shape[2:])


def average_pool(node: Node, x: Value) -> Tensor:
    x = tensor(x)
    window = _window(node, x)
    with_pads = bool(node.get("count_include_pad", 0))
    dims = len(window.kernel)
    plain = not any(window.before) and not any(window.after)
    small = all(2 * p <= k for p, k in zip(window.before, window.kernel, strict=True))
    if window.symmetric and set(window.dilations) == {1} and (with_pads or plain) and small:
        return _AVERAGE[dims](x, window.kernel, window.strides, window.before)
    ones = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype)
    ones = pad_spatial(ones, window.before, window.after, 1.0 if with_pads else 0.0)
    counts = window_sum(pad_spatial(ones, (0,) * dims, window.extra, 0.0), window)
    after = tuple(a + e for a, e in zip(window.after, window.extra, strict=True))
    return window_sum(pad_spatial(x, window.before, after, 0.0), window) / counts


def window_sum(x: Tensor, window: Window) -> Tensor:
    """Sum over the window's elements: one strided slice of the padded input for each."""
    check_steps(math.prod(window.kernel), f"a sum over a window of {list(window.kernel)}")
    total = None
    for offsets in itertools.product(*(range(k) for k in window.kernel)):
        part = x
        for axis, offset in enumerate(offsets):
            start = offset * window.dilations[axis]
            stop = start + (window.counts[axis] - 1) * window.strides[axis] + 1
            part = torch.ops.aten.slice.Tensor(part, axis + 2, start, stop, window.strides[axis])
        total = part if total is None else total + part
    if total is None:
        raise Unsupported("a window without elements")
    return total


def lp_pool(node: Node, x: Value) -> Tensor:
    x = tensor(x)
    window, p = _window(node, x), float(node.get("p", 2))
    after = tuple(a + e for a, e in zip(window.after, window.extra, strict=True))
    powers = torch.pow(torch.abs(pad_spatial(x, window.before, after, 0.0)), p)
    return torch.pow(window_sum(powers, window), 1.0 / p)


def _spatial(x: Tensor) -> list[int]:
    return list(range(2, x.ndim))


def global_average_pool(node: Node, x: Value) -> Tensor:
    x = tensor(x)
    return F.adaptive_avg_pool2d(x, 1) if x.ndim == 4 else torch.mean(x, _spatial(x), keepdim=True)


def global_max_pool(node: Node, x: Value) -> Tensor:
    x = tensor(x)
    return torch.amax(x, _spatial(x), keepdim=True)


def global_lp_pool(node: Node, x: Value) -> Tensor:
    x, p = tensor(x), float(node.get("p", 2))
    return torch.pow(torch.sum(torch.pow(torch.abs(x), p), _spatial(x), keepdim=True), 1.0 / p)


def max_unpool(node: Node, x: Value, index: Value, shape: Value = None) -> Tensor:
    """Put every value where MaxPool found it; the indices count through the whole tensor that the attributes imply."""
    x, index = tensor(x), tensor(index)
    dims = x.ndim - 2
    kernel = [int(item) for item in node.get("kernel_shape")]
    strides = [int(item) for item in node.get("strides", [1] * dims)]
    pads = [int(item) for item in node.get("pads", [0] * 2 * dims)]
    implied = [(x.shape[2 + i] - 1) * strides[i] + kernel[i] - pads[i] - pads[i + dims] for i in range(dims)]
    sizes = [*x.shape[:2], *implied]
    total = math.prod(sizes)
    flat = torch.zeros(total, dtype=x.dtype).scatter(0, index.reshape(-1), x.reshape(-1))
    y = flat.reshape(sizes)
    if shape is None:
        return y
    wanted = ints(shape, "output_shape")
    return pad_spatial(y, (0,) * dims, tuple(wanted[2 + i] - implied[i] for i in range(dims)), 0.0)


OPERATORS = (
    Operator("AveragePool", average_pool, 7),
    Operator("GlobalAveragePool", global_average_pool, 1),
    Operator("GlobalLpPool", global_lp_pool, 2),
    Operator("GlobalMaxPool", global_max_pool, 1),
    Operator("LpPool", lp_pool, 2),
    Operator("MaxPool", max_pool, 1),
    Operator("MaxUnpool", max_unpool, 9),
)
