"""`effc::statistical_top_k`: about the k largest of each row, by its mean and standard deviation: Spark's top-k without a sort.

    theta = mean(x) + deviations * std(x)            over the last axis; std without Bessel's correction
    statistical_top_k(x, deviations, "soft") = max(x - theta, 0)
    statistical_top_k(x, deviations, "hard") = 0 where x <= theta, else x
    statistical_top_k(x, deviations, "mask") = minus infinity where x <= theta, else x

With deviations = Q(1 - k/d), the quantile of the standard normal distribution, about k of d elements of a Gaussian row are over theta
(You et al., "Spark Transformer", arXiv 2506.06644, section 3: `soft` is its StatTopK_k, and `mask` is its form for attention, where a
softmax follows and a common shift changes nothing). Only for Gaussian rows: of a Laplace row with k/d = 8 % it keeps 14 % fewer, so
calibrate `deviations` on data, and never size a buffer by k. `hard` is effc's deviation for networks that were trained dense, which a
shift of every value would break. A row with a NaN has no theta: `soft` makes all of it NaN, the others leave it as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from effc.ir.ops.base import Cost, OpDef

__all__ = ["FORMS", "STATISTICAL_TOP_K"]

FORMS = ("soft", "hard", "mask")


def _check(x: Tensor, form: str) -> None:
    if form not in FORMS:
        raise ValueError(f"statistical_top_k: form is {form!r}, must be one of {FORMS}")
    if x.ndim == 0 or not x.dtype.is_floating_point:
        raise ValueError("statistical_top_k: takes floating-point tensors with at least one axis")


def _statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The centred row, and the mean and standard deviation of each."""
    mean = x.mean(-1, keepdim=True)
    centred = x - mean
    return centred, mean, (centred * centred).mean(-1, keepdim=True).sqrt()


def _reference(x: Tensor, deviations: float, form: str) -> Tensor:
    _check(x, form)
    _, mean, deviation = _statistics(x)
    theta = mean + deviations * deviation
    if form == "soft":
        return torch.relu(x - theta)
    rest = torch.full((), 0.0 if form == "hard" else -torch.inf, dtype=x.dtype, device=x.device)
    return torch.where(x <= theta, rest, x)


def _fake(x: Tensor, deviations: float, form: str) -> Tensor:
    _check(x, form)
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, deviations, form = inputs
    ctx.save_for_backward(x)
    ctx.deviations, ctx.form = deviations, form


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    """Through x and, in the soft form, through theta; the others only through what is kept, where their derivative exists."""
    (x,) = ctx.saved_tensors
    centred, mean, deviation = _statistics(x)
    kept = torch.where(x <= mean + ctx.deviations * deviation, torch.zeros_like(grad), grad)
    if ctx.form != "soft":
        return kept, None, None
    slope = torch.where(deviation > 0, centred / deviation.clamp_min(torch.finfo(x.dtype).tiny), torch.zeros_like(centred))
    along = (1 + ctx.deviations * slope) / x.shape[-1]  # of theta
    return kept - along * kept.sum(-1, keepdim=True), None, None


def _cost(x: Tensor, deviations: float, form: str) -> Cost:
    return Cost(macs=0, bytes=2 * int(x.numel()) * x.element_size())


def _onnx() -> Callable[..., Any]:
    from onnxscript import opset18 as op

    def statistical_top_k(x: Any, deviations: float, form: str) -> Any:
        last = op.Constant(value_ints=[-1])
        mean = op.ReduceMean(x, last, keepdims=1)
        centred = op.Sub(x, mean)
        deviation = op.Sqrt(op.ReduceMean(op.Mul(centred, centred), last, keepdims=1))
        theta = op.Add(mean, op.Mul(op.CastLike(op.Constant(value_float=deviations), x), deviation))
        if form == "soft":
            return op.Relu(op.Sub(x, theta))
        rest = op.CastLike(op.Constant(value_float=0.0 if form == "hard" else -float("inf")), x)
        return op.Where(op.LessOrEqual(x, theta), rest, x)

    return statistical_top_k


STATISTICAL_TOP_K = OpDef(
    name="statistical_top_k",
    schema="(Tensor x, float deviations, str form) -> Tensor",
    reference=_reference,
    fake=_fake,
    cost=_cost,
    onnx=_onnx,
    backward=(_setup_context, _backward),
    summary="keep what lies over a row's mean by a number of standard deviations: about its k largest",
)
