"""`effc::keep_top_k`: the k largest of each row, zeros elsewhere: the lazy neurons' top-k.

    keep_top_k(x, k)[..., i] = x[..., i]  if fewer than k elements of the row are larger
                               0          otherwise

A row is the last axis. This is TopK_k of Li et al., "The Lazy Neuron Phenomenon" (arXiv 2210.06313, section 4): applied after the
activation, per token. Where several elements equal the k-th largest, all of them stay (a row of equal elements is kept whole): the
paper leaves ties open, and a rule that asks for positions would be none that vectors can follow. NaN is larger than nothing and nothing
is larger than it: it stays, and does not count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from effc.ir.ops.base import Cost, OpDef

__all__ = ["KEEP_TOP_K"]


def _check(x: Tensor, k: int) -> None:
    if x.ndim == 0 or not x.dtype.is_floating_point:
        raise ValueError("keep_top_k: takes floating-point tensors with at least one axis")
    if not 1 <= k <= x.shape[-1]:
        raise ValueError(f"keep_top_k: k is {k}, must be from 1 to the length of a row, {x.shape[-1]}")


def _dropped(x: Tensor, k: int) -> Tensor:
    numbers = torch.where(torch.isnan(x), torch.full((), -torch.inf, dtype=x.dtype, device=x.device), x)
    return x < numbers.topk(k, -1).values[..., -1:]


def _reference(x: Tensor, k: int) -> Tensor:
    _check(x, k)
    return torch.where(_dropped(x, k), torch.zeros((), dtype=x.dtype, device=x.device), x)


def _fake(x: Tensor, k: int) -> Tensor:
    _check(x, k)
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, k = inputs
    ctx.save_for_backward(_dropped(x, k))


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    """1 where x is kept."""
    (dropped,) = ctx.saved_tensors
    return torch.where(dropped, torch.zeros_like(grad), grad), None


def _cost(x: Tensor, k: int) -> Cost:
    return Cost(macs=0, bytes=2 * int(x.numel()) * x.element_size())


def _onnx() -> Callable[..., Any]:
    from onnxscript import opset18 as op

    def keep_top_k(x: Any, k: int) -> Any:
        low = op.CastLike(op.Constant(value_float=-float("inf")), x)
        largest, _ = op.TopK(op.Where(op.IsNaN(x), low, x), op.Constant(value_ints=[k]), axis=-1)
        smallest = op.ReduceMin(largest, op.Constant(value_ints=[-1]), keepdims=1)
        return op.Where(op.Less(x, smallest), op.CastLike(op.Constant(value_float=0.0), x), x)

    return keep_top_k


KEEP_TOP_K = OpDef(
    name="keep_top_k",
    schema="(Tensor x, int k) -> Tensor",
    reference=_reference,
    fake=_fake,
    cost=_cost,
    onnx=_onnx,
    backward=(_setup_context, _backward),
    summary="keep the k largest elements of each row, zeros elsewhere",
)
