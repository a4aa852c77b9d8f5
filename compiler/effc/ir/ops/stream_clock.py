"""`effc::stream_clock`: how long ago a streaming program computed a frame whole, and whether it does now.

    moved[n, p] = as in `effc::truncate`; with a threshold of 0: any bit of any channel differs
    share[n]    = pixels that moved / pixels
    whole[n]    = clock[n] == 0  or  (refresh > 0 and clock[n] >= refresh)  or  share[n] > scene_cut
    result[n]   = 1 if whole[n] else clock[n] + 1           (it stays at 2^31 - 1)

x is the frame, `previous` the frame as it was propagated last, `clock` the result of the frame before. All states of a stream start as
zeros: a clock of 0 means that nothing was seen. `refresh` is the number of frames after which one is computed whole anyway, 0 for never;
`scene_cut` the share of moved pixels over which a frame counts as another scene (1 for never), where computing only what moved would cost
more than computing everything. What is compared are whole numbers, moved > floor(scene_cut * pixels), so every backend decides alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from effc.ir.ops.base import Cost, OpDef
from effc.ir.ops.truncate import check_pixels, moved_pixels

__all__ = ["LAST", "STREAM_CLOCK", "most_moved"]

LAST = 2**31 - 1
"""Where the clock stays."""

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def most_moved(scene_cut: float, pixels: int) -> int:
    """The largest number of moved pixels that is not a cut to another scene."""
    return math.floor(scene_cut * pixels)


def _check(x: Tensor, previous: Tensor, clock: Tensor, threshold: float, scene_cut: float, refresh: int) -> None:
    check_pixels("stream_clock", x, previous, clock, threshold)
    if not (scene_cut >= 0 and math.isfinite(scene_cut)):
        raise ValueError(f"stream_clock: scene_cut is {scene_cut}, must be a share of the pixels: 0 to 1")
    if not 0 <= refresh <= LAST:
        raise ValueError(f"stream_clock: refresh is {refresh}, must be a number of frames, or 0 for never")


def _reference(x: Tensor, previous: Tensor, clock: Tensor, threshold: float, scene_cut: float, refresh: int) -> Tensor:
    _check(x, previous, clock, threshold, scene_cut, refresh)
    if threshold == 0:
        bits = _BITS[x.element_size()]
        moved = (x.view(bits) != previous.view(bits)).any(1, keepdim=True)
    else:
        moved = moved_pixels(x, previous, threshold)
    whole = (clock == 0) | (moved.flatten(1).sum(1) > most_moved(scene_cut, math.prod(x.shape[2:])))
    if refresh:
        whole |= clock >= refresh
    return torch.where(whole, 1, clock.clamp(max=LAST - 1) + 1).to(torch.int32)


def _fake(x: Tensor, previous: Tensor, clock: Tensor, threshold: float, scene_cut: float, refresh: int) -> Tensor:
    _check(x, previous, clock, threshold, scene_cut, refresh)
    return torch.empty_like(clock)


def _cost(x: Tensor, previous: Tensor, clock: Tensor, threshold: float, scene_cut: float, refresh: int) -> Cost:
    return Cost(macs=0, bytes=2 * int(x.numel()) * x.element_size() + 8 * int(clock.numel()))


def _onnx() -> Callable[..., Any]:
    from onnxscript import opset18 as op

    def stream_clock(x: Any, previous: Any, clock: Any, threshold: float, scene_cut: float, refresh: int) -> Any:
        """With a threshold of 0 a NaN counts as moved, where torch compares its bits: ONNX has no operator that could."""
        if threshold == 0:
            nothing = op.CastLike(op.Constant(value_float=0.0), x)
            signs = op.Xor(op.Less(op.Reciprocal(x), nothing), op.Less(op.Reciprocal(previous), nothing))  # of zeros, which are equal
            apart = op.Or(op.Not(op.Equal(x, previous)), signs)
        else:
            limit = op.CastLike(op.Constant(value_float=threshold), x)
            far = op.Sub(x, previous)
            apart = op.Not(op.LessOrEqual(op.ReduceMean(op.Mul(far, far), op.Constant(value_ints=[1]), keepdims=1), op.Mul(limit, limit)))
        one = op.CastLike(op.Constant(value_int=1), clock)
        zero = op.Sub(one, one)
        moved = op.Flatten(op.ReduceMax(op.CastLike(apart, clock), op.Constant(value_ints=[1]), keepdims=1), axis=1)
        sums = op.Constant(value_ints=[1])
        count = op.ReduceSum(moved, sums, keepdims=0)
        pixels = op.ReduceSum(op.Max(moved, one), sums, keepdims=0)  # not from the shape: one body serves frames of every size
        share = op.CastLike(op.Constant(value_float=0.0), op.Cast(pixels, to=11))
        for part in _floats(scene_cut):
            share = op.Add(share, op.Cast(op.Constant(value_float=part), to=11))
        most = op.Floor(op.Mul(op.Cast(pixels, to=11), share))
        whole = op.Or(op.Equal(clock, zero), op.Greater(op.Cast(count, to=11), most))
        if refresh:
            whole = op.Or(whole, op.GreaterOrEqual(clock, op.CastLike(op.Constant(value_int=refresh), clock)))
        last = op.CastLike(op.Constant(value_int=LAST - 1), clock)
        return op.Where(whole, one, op.Add(op.Min(clock, last), one))

    return stream_clock


def _floats(value: float) -> list[float]:
    """Float32 numbers whose sum, in float64, is the value exactly: attributes of ONNX operators are no wider."""
    parts: list[float] = []
    while len(parts) < 3 and value:
        parts.append(float(torch.tensor(value, dtype=torch.float32)))
        value -= parts[-1]
    return parts


STREAM_CLOCK = OpDef(
    name="stream_clock",
    schema="(Tensor x, Tensor previous, Tensor clock, float threshold, float scene_cut, int refresh) -> Tensor",
    reference=_reference,
    fake=_fake,
    cost=_cost,
    onnx=_onnx,
    summary="count frames since the last one that a streaming program computed whole: 1 in such a frame",
)
