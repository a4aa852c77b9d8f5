"""Reductions over axes. `axes` moved from an attribute to an input in opset 13 (ReduceSum) and 18 (the others)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from effc.frontends.onnx.operators.base import Node, Operator, Unsupported, Value
from effc.frontends.onnx.operators.values import axes_of, is_constant, normal_axis, tensor

__all__ = ["OPERATORS"]

Reduce = Callable[[Tensor, list[int], bool], Tensor]


def _reduction(function: Reduce, since_input: int = 18, before: Callable[[Tensor], Tensor] | None = None) -> Callable[..., Tensor]:
    """An operator that applies `function` to the axes; with noop_with_empty_axes and none given, only `before`."""

    def call(node: Node, x: Value, axes: Value = None) -> Tensor:
        x = tensor(x)
        dims = axes_of(node, axes, x.ndim, since_input)
        if not dims and node.get("noop_with_empty_axes", 0) and node.opset >= since_input:
            return before(x) if before else x.clone()
        dims = dims or list(range(x.ndim))
        if not dims:
            return before(x) if before else x.clone()
        return function(x, dims, bool(node.get("keepdims", 1)))

    return call


def _sum(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    return torch.sum(x, dims, keepdim=keep, dtype=x.dtype)


def _mean(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    if x.is_floating_point():
        return torch.mean(x, dims, keepdim=keep)
    count = math.prod(x.shape[dim] for dim in dims)
    return torch.div(torch.sum(x, dims, keepdim=keep), count, rounding_mode="trunc").to(x.dtype)


def _prod(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    for dim in sorted(dims, reverse=True):
        x = torch.prod(x, dim, keepdim=keep, dtype=x.dtype)
    return x


def _extremum(x: Tensor, dims: list[int], keep: bool, largest: bool) -> Tensor:
    if any(isinstance(x.shape[dim], int) and x.shape[dim] == 0 for dim in dims):
        if x.dtype == torch.bool:
            neutral: Any = not largest
        elif x.is_floating_point():
            neutral = -math.inf if largest else math.inf
        else:
            neutral = torch.iinfo(x.dtype).min if largest else torch.iinfo(x.dtype).max
        sizes = [1 if i in dims else n for i, n in enumerate(x.shape) if keep or i not in dims]
        return torch.full(sizes, neutral, dtype=x.dtype)
    if x.dtype in (torch.uint16, torch.uint32):
        return _extremum(x.to(torch.int64), dims, keep, largest).to(x.dtype)
    if x.dtype == torch.uint64:
        raise Unsupported("uint64 elements", "use int64")
    return torch.amax(x, dims, keep) if largest else torch.amin(x, dims, keep)


def _max(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    return _extremum(x, dims, keep, True)


def _min(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    return _extremum(x, dims, keep, False)


def _norm1(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    return _sum(torch.abs(x), dims, keep)


def _sum_square(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    return _sum(x * x, dims, keep)


def _in_floating_point(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return function(x) if x.is_floating_point() else function(x.to(torch.float64)).to(x.dtype)


def _norm2(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    return _in_floating_point(lambda v: torch.sqrt(_sum_square(v, dims, keep)), x)


def _log_sum(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    return _in_floating_point(lambda v: torch.log(_sum(v, dims, keep)), x)


def _log_sum_exp(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    if any(isinstance(x.shape[dim], int) and x.shape[dim] == 0 for dim in dims):
        return _log_sum(x, dims, keep)
    return _in_floating_point(lambda v: torch.logsumexp(v, dims, keep), x)


def _arg(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def call(node: Node, x: Value) -> Tensor:
        x = tensor(x)
        axis, keep = normal_axis(int(node.get("axis", 0)), x.ndim), bool(node.get("keepdims", 1))
        if not node.get("select_last_index", 0):
            return function(x, axis, keep)
        return x.shape[axis] - 1 - function(torch.flip(x, (axis,)), axis, keep)

    return call


def reduce_prod(node: Node, x: Value, axes: Value = None) -> Any:
    """Of constants in numpy: products of sizes are common in exported shape arithmetic."""
    if is_constant(x) and x is not None and (axes is None or is_constant(axes)):
        dims = axes_of(node, axes, x.ndim, 18)
        if dims or not node.get("noop_with_empty_axes", 0):
            product = np.prod(x, axis=tuple(dims) if dims else None, keepdims=bool(node.get("keepdims", 1)))
            if isinstance(x, np.ndarray) and x.dtype == object and not isinstance(product, np.ndarray):
                boxed = np.empty((), dtype=object)
                boxed[()] = product
                return boxed
            return np.asarray(product, dtype=np.asarray(x).dtype)
    return _PROD(node, x, axes)


_PROD = _reduction(_prod)

OPERATORS = (
    Operator("ArgMax", _arg(torch.argmax), 1),
    Operator("ArgMin", _arg(torch.argmin), 1),
    Operator("ReduceL1", _reduction(_norm1, before=torch.abs), 1),
    Operator("ReduceL2", _reduction(_norm2, before=torch.abs), 1),
    Operator("ReduceLogSum", _reduction(_log_sum, before=lambda x: _in_floating_point(torch.log, x)), 1),
    Operator("ReduceLogSumExp", _reduction(_log_sum_exp), 1),
    Operator("ReduceMax", _reduction(_max), 1),
    Operator("ReduceMean", _reduction(_mean), 1),
    Operator("ReduceMin", _reduction(_min), 1),
    Operator("ReduceProd", reduce_prod, 1),
    Operator("ReduceSum", _reduction(_sum, 13), 1),
    Operator("ReduceSumSquare", _reduction(_sum_square, before=lambda x: x * x), 1),
)
