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
(C, H, W) one per neuron. They are ordinary parameters of the program, so faults can hit them like any other weight. A `lower` of None is 0,
without a stored number that could be hit: a bound behind a ReLU stores its upper bound alone.

What trains is another form. In mode `zero` the op gives its bounds no gradient, so `smooth_bound` stands in for it while they train;
in mode `clamp` the op itself has one. `bound_in_training` chooses; every deployed program computes the op.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from effc.ir.ops.base import Cost, OpDef

__all__ = ["BOUND", "MODES", "SLOPE", "bound_in_training", "smooth_bound"]

MODES = ("clamp", "zero")
SLOPE = 20.0
"""The slope of the smooth form, that of FitAct and ProAct."""


def _reference(x: Tensor, lower: Tensor | None, upper: Tensor, mode: str) -> Tensor:
    _check_mode(mode)
    if lower is None and mode == "zero":
        return _one_sided(x, upper)
    zero = torch.zeros((), dtype=x.dtype, device=x.device)
    low = zero if lower is None else lower
    below, above, nan = x < low, x > upper, torch.isnan(x)  # NaN is neither below nor above
    if mode == "clamp":
        return torch.where(below | nan, low, torch.where(above, upper, x))
    return torch.where(nan, low, torch.where(below | above, zero, x))


def _one_sided(x: Tensor, upper: Tensor) -> Tensor:
    """`zero` without a lower bound, in products: torch's `where` takes four times as long, more than a small convolution."""
    if upper.dim() == 3 and x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        upper = upper.permute(1, 2, 0).contiguous().permute(2, 0, 1)  # as x lies in memory, so that both are read in one sweep
    kept = torch.gt(x, upper, out=torch.empty_like(x)).neg_().add_(1)  # 1 or 0; a bound that is NaN is none
    return kept.mul_(x).clamp_min_(0).nan_to_num_(nan=0.0, posinf=torch.inf)  # 0 * inf is NaN, and so is NaN


def _fake(x: Tensor, lower: Tensor | None, upper: Tensor, mode: str) -> Tensor:
    _check_mode(mode)
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _check_mode(mode: str) -> None:
    if mode not in MODES:
        raise ValueError(f"bound: mode is {mode!r}, must be one of {MODES}")


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, lower, upper, mode = inputs
    ctx.save_for_backward(x, lower, upper)
    ctx.mode = mode


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
    """Gradient of the hard form, almost everywhere: 1 in range for x; in clamp mode the bounds collect what they cut."""
    x, lower, upper = ctx.saved_tensors
    low = torch.zeros((), dtype=x.dtype, device=x.device) if lower is None else lower
    nothing = torch.zeros((), dtype=grad.dtype, device=grad.device)
    grad_x = grad_lower = grad_upper = None
    if ctx.needs_input_grad[0]:
        grad_x = torch.where((x >= low) & (x <= upper), grad, nothing)
    if lower is not None and ctx.needs_input_grad[1]:
        at_lower = torch.isnan(x) | (x < low) if ctx.mode == "clamp" else torch.isnan(x)
        grad_lower = torch.where(at_lower, grad, nothing).sum_to_size(lower.shape)
    if ctx.needs_input_grad[2]:
        clamps = ctx.mode == "clamp"
        grad_upper = torch.where(x > upper, grad, nothing).sum_to_size(upper.shape) if clamps else torch.zeros_like(upper)
    return grad_x, grad_lower, grad_upper, None


def _cost(x: Tensor, lower: Tensor | None, upper: Tensor, mode: str) -> Cost:
    stored = int(upper.numel()) + (0 if lower is None else int(lower.numel()))
    return Cost(macs=0, bytes=(2 * int(x.numel()) + stored) * x.element_size())


def _onnx() -> Callable[..., Any]:
    from onnxscript import opset18 as op

    def bound(x: Any, lower: Any, upper: Any, mode: str) -> Any:
        zero = op.CastLike(op.Constant(value_float=0.0), x) if lower is None or mode == "zero" else None
        low = zero if lower is None else lower
        if mode == "clamp":
            kept = op.Where(op.Less(x, low), low, op.Where(op.Greater(x, upper), upper, x))
        else:
            kept = op.Where(op.Or(op.Less(x, low), op.Greater(x, upper)), zero, x)
        return op.Where(op.IsNaN(x), low, kept)

    return bound


BOUND = OpDef(
    name="bound",
    schema="(Tensor x, Tensor? lower, Tensor upper, str mode) -> Tensor",
    reference=_reference,
    fake=_fake,
    cost=_cost,
    onnx=_onnx,
    backward=(_setup_context, _backward),
    summary="keep x inside [lower, upper]: clamp to the bound or to zero; NaN becomes lower; no lower is 0",
)


def smooth_bound(x: Tensor, lower: Tensor | None, upper: Tensor, mode: str, slope: float = SLOPE) -> Tensor:
    """The form of `effc::bound` whose bounds train.

    Mode `clamp` is the op itself: its bounds have a gradient. Mode `zero` rolls off to 0 around each bound b (upper for x >= 0, lower for
    x < 0) instead of dropping there:

        y = x * sigmoid(slope * (1 - x / b))        dy/db = slope * s * (1 - s) * (x / b)^2, s the sigmoid

    This is FitReLU (FitAct, arXiv 2112.13544) and HyReLU (ProAct, arXiv 2406.06313), x * sigmoid(20 * (b - x)), with a deviation: the slope
    is divided by the bound. The two agree at b = 1. Theirs depends on the scale of a layer: at b = 0.1 it passes 73 % of a value at half
    the bound, at b = 100 it is a step without a gradient. Ours passes the same share of b/2, b and 2b at every scale.

    It is never NaN, where the plain formula is (inf * 0): an infinite x becomes 0, a NaN becomes lower, an infinite b is no bound. A side
    whose bound is 0 or of the other sign gives 0.

    Args:
        x: floating point, any shape.
        lower: at most 0, or None for 0.
        upper: at least 0. Both broadcast against x without its batch dimension.
        mode: `clamp` or `zero`.
        slope: of the roll-off, over 0. At x = b half of it passes; at b = x * (1 + margin) about sigmoid(slope * margin) of x.

    Returns:
        A tensor of x's shape and dtype. It can be differentiated once.

    Raises:
        ValueError: another mode.
    """
    _check_mode(mode)
    if mode == "clamp":
        return bound_in_training(x, lower, upper, mode, training=False)
    result: Tensor = _SmoothZero.apply(x, lower, upper, slope)  # type: ignore[no-untyped-call]
    return result


def bound_in_training(x: Tensor, lower: Tensor | None, upper: Tensor, mode: str, training: bool, slope: float = SLOPE) -> Tensor:
    """What stands for a bound in a network that trains: the smooth form in training mode where a bound requires a gradient, else the op."""
    if training and (upper.requires_grad or (lower is not None and lower.requires_grad)):
        return smooth_bound(x, lower, upper, mode, slope)
    result: Tensor = BOUND.overload(x, lower, upper, mode)
    return result


class _SmoothZero(torch.autograd.Function):
    """The formulas of `smooth_bound`, with gradients that are written out in ratio = x / b.

    Differentiated by autograd, the quotient would give x / b^2, which overflows for small bounds and makes NaN of a gradient of 0.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, lower: Tensor | None, upper: Tensor, slope: float) -> Tensor:
        over = x >= 0
        edge, side = upper, over & (upper > 0)
        if lower is not None:
            edge, side = torch.where(over, upper, lower), side | (~over & (lower < 0))
        ratio = x / edge
        passed = torch.where(side, (slope * (1 - ratio)).sigmoid_(), torch.zeros((), dtype=x.dtype, device=x.device)).nan_to_num_(nan=0.0)
        ratio.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)  # where it is not finite, nothing passes
        nan = None if lower is None else torch.isnan(x)
        ctx.save_for_backward(ratio, passed, None if lower is None else over, nan)
        ctx.slope, ctx.upper_shape, ctx.lower_shape = slope, upper.shape, None if lower is None else lower.shape
        y = x.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).mul_(passed)
        return y if lower is None or nan is None else torch.where(nan, lower, y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        ratio, passed, over, nan = ctx.saved_tensors
        bend = ctx.slope * passed * (1 - passed) * ratio
        grad_x = grad * (passed - bend) if ctx.needs_input_grad[0] else None
        if nan is None:
            return grad_x, None, (grad * bend * ratio).sum_to_size(ctx.upper_shape), None
        at_edge, nothing = grad * bend * ratio, torch.zeros_like(grad)
        grad_lower = torch.where(nan, grad, torch.where(over, nothing, at_edge)).sum_to_size(ctx.lower_shape)
        return grad_x, grad_lower, torch.where(over, at_edge, nothing).sum_to_size(ctx.upper_shape), None
