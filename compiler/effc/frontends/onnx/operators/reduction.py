"""Reductions, index of the extreme, cumulative sums, top-k."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from effc.frontends.onnx.operators.base import Node, Operator, Unsupported, integers
from effc.frontends.onnx.operators.helpers import axes_of

__all__ = ["OPERATORS"]


def _reduce(function: Callable[[Tensor, list[int], bool], Tensor], *, same: bool = True) -> Callable[..., Tensor]:
    """An ONNX reduction; `same`: the result has the input's dtype."""

    def apply(node: Node, x: Tensor, axes: Any = None) -> Tensor:
        over = axes_of(node, axes, x.ndim)
        if not over:
            if node.get("noop_with_empty_axes", 0):
                return function(x.unsqueeze(-1), [x.ndim], False).to(x.dtype)
            over = list(range(x.ndim))
        if not over:
            return function(x.unsqueeze(0), [0], False).to(x.dtype)
        result = function(x, over, bool(node.get("keepdims", 1)))
        return result.to(x.dtype) if same else result

    return apply


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(dim=axis, keepdim=keep)
    return x


def _extreme(function: Callable[..., Tensor], empty: float) -> Callable[[Tensor, list[int], bool], Tensor]:
    def apply(x: Tensor, axes: list[int], keep: bool) -> Tensor:
        if any(x.shape[axis] == 0 for axis in axes):
            shape = [1 if i in axes else n for i, n in enumerate(x.shape) if keep or i not in axes]
            return torch.full(shape, empty, dtype=x.dtype)
        return function(x.to(torch.uint8) if x.dtype == torch.bool else x, dim=axes, keepdim=keep)

    return apply


def _log_sum_exp(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.logsumexp(x if x.is_floating_point() else x.to(torch.float32), dim=axes, keepdim=keep)


def _arg(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def apply(node: Node, x: Tensor) -> Tensor:
        axis = node.get("axis", 0) % max(x.ndim, 1)
        keep = bool(node.get("keepdims", 1))
        if node.get("select_last_index", 0):
            return x.shape[axis] - 1 - function(x.flip(axis), dim=axis, keepdim=keep)
        return function(x, dim=axis, keepdim=keep)

    return apply


def _cumsum(node: Node, x: Tensor, axis: Any) -> Tensor:
    along = integers(axis)[0] % x.ndim
    y = x.flip(along) if node.get("reverse", 0) else x
    total = torch.cumsum(y, along).to(x.dtype)
    if node.get("exclusive", 0):
        zero = torch.zeros_like(total.narrow(along, 0, 1))
        total = torch.cat([zero, total.narrow(along, 0, total.shape[along] - 1)], along)
    return total.flip(along) if node.get("reverse", 0) else total


def _top_k(node: Node, x: Tensor, k: Any = None) -> tuple[Tensor, Tensor]:
    if not node.get("sorted", 1):
        raise Unsupported("an unsorted TopK has no defined order", "set sorted=1")
    count = node.attributes["k"] if k is None else integers(k)[0]
    axis = node.get("axis", -1)
    # A stable sort gives the lower index first among equals, as ONNX asks; torch.topk does not promise it.
    values, indices = torch.sort(x, dim=axis, descending=bool(node.get("largest", 1)), stable=True)
    return values.narrow(axis, 0, count), indices.narrow(axis, 0, count)


_EXTREMES = {
    "ReduceMax": _extreme(torch.amax, float("-inf")),
    "ReduceMin": _extreme(torch.amin, float("inf")),
}
_REDUCTIONS: dict[str, Callable[[Tensor, list[int], bool], Tensor]] = {
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keepdim=keep),
    "ReduceMean": lambda x, axes, keep: (x if x.is_floating_point() else x.to(torch.float64)).mean(axes, keepdim=keep),
    "ReduceProd": _product,
    "ReduceL1": lambda x, axes, keep: torch.abs(x).sum(axes, keepdim=keep),
    "ReduceL2": lambda x, axes, keep: torch.sqrt((x * x).sum(axes, keepdim=keep)),
    "ReduceSumSquare": lambda x, axes, keep: (x * x).sum(axes, keepdim=keep),
    "ReduceLogSum": lambda x, axes, keep: torch.log(x.sum(axes, keepdim=keep)),
    "ReduceLogSumExp": _log_sum_exp,
    **_EXTREMES,
}

OPERATORS: tuple[Operator, ...] = (
    *(Operator(name, _reduce(function), known=(1,)) for name, function in _REDUCTIONS.items()),
    Operator("ArgMax", _arg(torch.argmax)),
    Operator("ArgMin", _arg(torch.argmin)),
    Operator("CumSum", _cumsum, known=(1,)),
    Operator("TopK", _top_k, known=(1,)),
)
