"""`effc::truncate`: a tensor of a video, kept where it hardly moved: the op behind temporal sparsity (the pass `delta`).

    fresh[n]       = clock[n] == 1
    moved[n, p]    = not (mean over channels c of (x[n, c, p] - previous[n, c, p])^2 <= threshold^2)
    result[n, :, p] = x[n, :, p]          if fresh[n] or moved[n, p] or threshold == 0
                      previous[n, :, p]   otherwise

`previous` is the result of the frame before, a state of the program; `clock` (`effc::stream_clock`) reads 1 in a frame that is computed
whole. A pixel p is a place in space with all its channels. Where a pixel is kept, nothing that reads it changes there, and kernels need
not compute it again.

This is DeltaCNN's rule (Parger et al., CVPR 2022, arXiv 2203.03996: the part of a change that was not propagated is kept until it exceeds
the threshold), written with values instead of differences: x is compared with what was propagated last, so a slow drift adds up until it
counts. In every frame the root mean square over the channels of `result - x` is at most the threshold at each pixel. Nothing is
accumulated, so nothing drifts.

The size of a change is its root mean square over the channels, which DeltaCNN's layers offer beside their default, the largest channel:
of many channels one nearly always moves, so for the same error of the outputs more would be computed (docs/streaming.md has figures).

A threshold of 0 is the identity, bit for bit: there `previous` only tells kernels what to compute. NaN counts as moved, and so does a
difference that has none (infinity minus infinity).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from effc.ir.ops.base import Cost, OpDef

__all__ = ["TRUNCATE", "check_pixels", "moved_pixels"]


def moved_pixels(x: Tensor, previous: Tensor, threshold: float) -> Tensor:
    """Which pixels moved by more than the threshold, as a root mean square over channels: (N, 1, *spatial) bool for (N, C, *spatial)."""
    far = (x - previous).to(torch.promote_types(x.dtype, torch.float32)).square_().sum(1, keepdim=True)
    return ~(far <= threshold * threshold * x.shape[1])


def check_pixels(op: str, x: Tensor, previous: Tensor, clock: Tensor, threshold: float) -> None:
    """Raises ValueError where operands do not fit: what `truncate` and `stream_clock` have in common."""
    if x.ndim < 2 or not x.dtype.is_floating_point:
        raise ValueError(f"{op}: takes floating-point tensors (N, C, *spatial), not {x.dtype} with {x.ndim} axes")
    if previous.dtype != x.dtype or previous.ndim != x.ndim or previous.shape[1:] != x.shape[1:]:
        raise ValueError(f"{op}: previous is {previous.dtype}{list(previous.shape)}, must be like x: {x.dtype}{list(x.shape)}")
    if clock.dtype != torch.int32 or clock.ndim != 1:
        raise ValueError(f"{op}: clock is {clock.dtype}{list(clock.shape)}, must be int32 (N,)")
    if not (threshold >= 0 and math.isfinite(threshold)):
        raise ValueError(f"{op}: threshold is {threshold}, must be a number of at least 0")


def _reference(x: Tensor, previous: Tensor, clock: Tensor, threshold: float) -> Tensor:
    check_pixels("truncate", x, previous, clock, threshold)
    if threshold == 0:
        return x.clone()
    fresh = (clock == 1).reshape(-1, *[1] * (x.ndim - 1))
    return torch.where(fresh | moved_pixels(x, previous, threshold), x, previous)


def _fake(x: Tensor, previous: Tensor, clock: Tensor, threshold: float) -> Tensor:
    check_pixels("truncate", x, previous, clock, threshold)
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _cost(x: Tensor, previous: Tensor, clock: Tensor, threshold: float) -> Cost:
    """Two reads and a write of the tensor; the dense meaning, as every other cost."""
    return Cost(macs=0, bytes=3 * int(x.numel()) * x.element_size() + 4 * int(clock.numel()))


def _onnx() -> Callable[..., Any]:
    from onnxscript import opset18 as op

    def truncate(x: Any, previous: Any, clock: Any, threshold: float) -> Any:
        """One body for tensors of any rank: with all axes reversed the samples are last, where the clock broadcasts."""
        if threshold == 0:
            return op.Identity(x)
        limit = op.CastLike(op.Constant(value_float=threshold), x)
        one = op.CastLike(op.Constant(value_int=1), clock)
        apart = op.Sub(x, previous)
        still = op.LessOrEqual(op.ReduceMean(op.Mul(apart, apart), op.Constant(value_ints=[1]), keepdims=1), op.Mul(limit, limit))
        kept = op.Transpose(op.And(op.Transpose(still), op.Not(op.Equal(clock, one))))
        return op.Where(kept, previous, x)

    return truncate


TRUNCATE = OpDef(
    name="truncate",
    schema="(Tensor x, Tensor previous, Tensor clock, float threshold) -> Tensor",
    reference=_reference,
    fake=_fake,
    cost=_cost,
    onnx=_onnx,
    summary="keep a pixel's previous values where it moved by no more than a threshold",
)
