"""Pooling: windows of the maximum, the mean and the p-norm; whole planes."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from effc.frontends.onnx.operators.base import Node, Operator, Unsupported
from effc.frontends.onnx.operators.helpers import windows

__all__ = ["OPERATORS"]

_MAX: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _geometry(node: Node, x: Tensor) -> tuple[list[int], list[int], list[int], list[int], list[int]]:
    """Kernel, strides, dilations, begin and end pads; the end grows where `ceil_mode` counts a partial window."""
    kernel = list(node.attributes["kernel_shape"])
    rank = len(kernel)
    if rank not in _MAX:
        raise Unsupported(f"{rank} spatial dimensions", "1, 2 and 3 work")
    strides, dilations, pads = windows(node, x, kernel)
    begin, end = pads[:rank], pads[rank:]
    if node.get("ceil_mode", 0):
        for axis in range(rank):
            size, extent = int(x.shape[2 + axis]), (kernel[axis] - 1) * dilations[axis] + 1
            windows_ = -(-(size + begin[axis] + end[axis] - extent) // strides[axis]) + 1
            if (windows_ - 1) * strides[axis] >= size + begin[axis]:
                windows_ -= 1  # a window that would lie in the end padding alone does not count
            end[axis] = max(end[axis], (windows_ - 1) * strides[axis] + extent - size - begin[axis])
    return kernel, strides, dilations, begin, end


def _padding(begin: list[int], end: list[int]) -> list[int]:
    return [size for pair in zip(reversed(begin), reversed(end), strict=True) for size in pair]


def _max_pool(node: Node, x: Tensor) -> Tensor:
    if len(node.outputs) > 1 and node.outputs[1]:
        raise Unsupported("the output Indices is not covered", "drop it where nothing uses it")
    kernel, strides, dilations, begin, end = _geometry(node, x)
    kind = x.dtype
    y = x if x.is_floating_point() else x.to(torch.float32)
    if begin == end and all(2 * p <= k for p, k in zip(begin, kernel, strict=True)):
        pooled = _MAX[len(kernel)](y, kernel, strides, begin, dilations)
    else:
        pooled = _MAX[len(kernel)](F.pad(y, _padding(begin, end), value=-math.inf), kernel, strides, 0, dilations)
    return pooled.to(kind)  # type: ignore[no-any-return]


def _average_pool(node: Node, x: Tensor) -> Tensor:
    kernel, strides, dilations, begin, end = _geometry(node, x)
    counted = bool(node.get("count_include_pad", 0))
    rank = len(kernel)
    if begin == end and set(dilations) == {1} and not node.get("ceil_mode", 0) and all(2 * p <= k for p, k in zip(begin, kernel, strict=True)):
        return _AVERAGE[rank](x, kernel, strides, begin, False, counted)  # type: ignore[no-any-return]
    total = _window_sum(F.pad(x, _padding(begin, end)), kernel, strides, dilations)
    ones = torch.ones([1, 1, *x.shape[2:]], dtype=x.dtype)
    if counted:  # declared padding counts, what ceil_mode added does not
        declared = windows(node, x, kernel)[2]
        ones = F.pad(ones, _padding(declared[:rank], declared[rank:]), value=1.0)
        grown = [e - d for e, d in zip(end, declared[rank:], strict=True)]
        ones = F.pad(ones, _padding([0] * rank, grown))
    else:
        ones = F.pad(ones, _padding(begin, end))
    return total / _window_sum(ones, kernel, strides, dilations)


def _window_sum(x: Tensor, kernel: list[int], strides: list[int], dilations: list[int]) -> Tensor:
    """Sums over windows, one axis after another: exact for any dilation."""
    for axis, (extent, stride, dilation) in enumerate(zip(kernel, strides, dilations, strict=True), start=2):
        count = (int(x.shape[axis]) - (extent - 1) * dilation - 1) // stride + 1
        parts = [x.narrow(axis, tap * dilation, (count - 1) * stride + 1) for tap in range(extent)]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        x = total.index_select(axis, torch.arange(0, (count - 1) * stride + 1, stride)) if stride > 1 else total
    return x


def _lp_pool(node: Node, x: Tensor) -> Tensor:
    power = node.get("p", 2)
    kernel, strides, dilations, begin, end = _geometry(node, x)
    padded = F.pad(torch.abs(x) ** power, _padding(begin, end))
    return _window_sum(padded, kernel, strides, dilations) ** (1.0 / power)


def _planes(x: Tensor) -> list[int]:
    return list(range(2, x.ndim))


OPERATORS: tuple[Operator, ...] = (
    Operator("MaxPool", _max_pool),
    Operator("AveragePool", _average_pool, since=7),
    Operator("LpPool", _lp_pool),
    Operator("GlobalAveragePool", lambda node, x: x.mean(dim=_planes(x), keepdim=True)),
    Operator("GlobalMaxPool", lambda node, x: x.amax(dim=_planes(x), keepdim=True)),
    Operator("GlobalLpPool", lambda node, x: (torch.abs(x) ** node.get("p", 2)).sum(_planes(x), keepdim=True) ** (1.0 / node.get("p", 2))),
)
