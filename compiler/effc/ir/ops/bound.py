"""`effc::bound`: a bounded activation, the op behind Ranger, FT-ClipAct, FitAct and ProAct.

    bound(x, lower, upper, "clamp")[i] = lower  if x[i] < lower or x[i] is NaN
                                         upper  if x[i] > upper
                                         x[i]   otherwise
    bound(x, lower, upper, "zero")[i]  = x[i]   if lower <= x[i] <= upper
                                         lower  if x[i] is NaN
                                         0      otherwise

A value equal to a bound is in range and kept. `clamp` is Ranger's rule (arXiv 2003.13874, section IV), `zero` is FT-ClipAct's
(arXiv 1912.00941, eq. 1). NaN goes to `lower` because a faulty exponent makes NaN as well as huge values, and an ordinary clamp
lets NaN through; for an activation bounded below by 0 both modes then give 0.

`lower` and `upper` broadcast against `x` without its batch dimension: shape () is one bound per layer, (C, 1, 1) one per channel,
(C, H, W) one per neuron. They are ordinary parameters of the program, so faults can hit them like any other weight.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from effc.ir.ops.base import Cost, OpDef

__all__ = ["BOUND", "MODES"]

MODES = ("clamp", "zero")


def _reference(x: Tensor, lower: Tensor, upper: Tensor, mode: str) -> Tensor:
    if mode not in MODES:
        raise ValueError(f"bound: mode is {mode!r}, must be one of {MODES}")
    below, above = x < lower, x > upper  # both False for NaN
    if mode == "clamp":
        kept = torch.where(below, lower, torch.where(above, upper, x))
    else:
        kept = torch.where(below | above, torch.zeros((), dtype=x.dtype, device=x.device), x)
    return torch.where(torch.isnan(x), lower, kept)


def _fake(x: Tensor, lower: Tensor, upper: Tensor, mode: str) -> Tensor:
    if mode not in MODES:
        raise ValueError(f"bound: mode is {mode!r}, must be one of {MODES}")
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, lower, upper, mode = inputs
    ctx.save_for_backward(x, lower, upper)
    ctx.mode = mode


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
    """Gradient of the hard form, almost everywhere: 1 in range for x; in clamp mode the bounds collect what they cut."""
    x, lower, upper = ctx.saved_tensors
    at_lower = torch.isnan(x)
    if ctx.mode == "clamp":
        at_lower = at_lower | (x < lower)
    at_upper = x > upper
    nothing = torch.zeros_like(grad)
    in_range = (x >= lower) & (x <= upper)
    grad_lower = torch.where(at_lower, grad, nothing).sum_to_size(lower.shape)
    grad_upper = (torch.where(at_upper, grad, nothing) if ctx.mode == "clamp" else nothing).sum_to_size(upper.shape)
    return torch.where(in_range, grad, nothing), grad_lower, grad_upper, None


def _cost(x: Tensor, lower: Tensor, upper: Tensor, mode: str) -> Cost:
    elements = int(x.numel())
    return Cost(macs=0, bytes=(2 * elements + int(lower.numel()) + int(upper.numel())) * x.element_size())


def _onnx() -> Callable[..., Any]:
    from onnxscript import opset18 as op

    def bound(x: Any, lower: Any, upper: Any, mode: str) -> Any:
        if mode == "clamp":
            kept = op.Where(op.Less(x, lower), lower, op.Where(op.Greater(x, upper), upper, x))
        else:
            outside = op.Or(op.Less(x, lower), op.Greater(x, upper))
            kept = op.Where(outside, op.CastLike(op.Constant(value_float=0.0), x), x)
        return op.Where(op.IsNaN(x), lower, kept)

    return bound


BOUND = OpDef(
    name="bound",
    schema="(Tensor x, Tensor lower, Tensor upper, str mode) -> Tensor",
    reference=_reference,
    fake=_fake,
    cost=_cost,
    onnx=_onnx,
    backward=(_setup_context, _backward),
    summary="keep x inside [lower, upper]: clamp to the bound or to zero; NaN becomes lower",
)
