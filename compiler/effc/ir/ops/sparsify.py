"""`effc::sparsify`: an activation threshold, the op behind TEAL, WINA and FATReLU.

    sparsify(x, threshold, "magnitude")[i] = 0     if |x[i]| <= threshold
                                             x[i]  otherwise
    sparsify(x, threshold, "value")[i]     = 0     if x[i] < threshold
                                             x[i]  otherwise

`magnitude` is TEAL's rule (arXiv 2408.14690, section 4: s_t(x) = x * 1[|x| > t]), and WINA's (arXiv 2505.19427) with the norms of the
weights folded into one threshold an input: |x_i| * ||W_:,i||_2 > T is |x_i| > T / ||W_:,i||_2. `value` is FATReLU (Kurtz et al., ICML
2020): x where x >= t. A magnitude threshold of 0 changes nothing. NaN is no number that a threshold could drop: it stays NaN, where
the papers' products with a mask leave it open.

`threshold` broadcasts against `x` along its last axes: shape () is one threshold a layer, (K,) one an input of a linear layer,
(C, 1, 1) one a channel. It is an ordinary parameter of the program, so faults can hit it like any other weight.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from effc.ir.ops.base import Cost, OpDef

__all__ = ["RULES", "SPARSIFY"]

RULES = ("magnitude", "value")


def _dropped(x: Tensor, threshold: Tensor, rule: str) -> Tensor:
    if rule not in RULES:
        raise ValueError(f"sparsify: rule is {rule!r}, must be one of {RULES}")
    return x.abs() <= threshold if rule == "magnitude" else x < threshold


def _reference(x: Tensor, threshold: Tensor, rule: str) -> Tensor:
    return torch.where(_dropped(x, threshold, rule), torch.zeros((), dtype=x.dtype, device=x.device), x)


def _fake(x: Tensor, threshold: Tensor, rule: str) -> Tensor:
    if rule not in RULES:
        raise ValueError(f"sparsify: rule is {rule!r}, must be one of {RULES}")
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, threshold, rule = inputs
    ctx.save_for_backward(x, threshold)
    ctx.rule = rule


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    """Gradient of the hard form, almost everywhere: 1 where x is kept. The threshold has none; `effc.nn` has soft forms that train it."""
    x, threshold = ctx.saved_tensors
    return torch.where(_dropped(x, threshold, ctx.rule), torch.zeros_like(grad), grad), None, None


def _cost(x: Tensor, threshold: Tensor, rule: str) -> Cost:
    return Cost(macs=0, bytes=(2 * int(x.numel()) + int(threshold.numel())) * x.element_size())


def _onnx() -> Callable[..., Any]:
    from onnxscript import opset18 as op

    def sparsify(x: Any, threshold: Any, rule: str) -> Any:
        dropped = op.LessOrEqual(op.Abs(x), threshold) if rule == "magnitude" else op.Less(x, threshold)
        return op.Where(dropped, op.CastLike(op.Constant(value_float=0.0), x), x)

    return sparsify


SPARSIFY = OpDef(
    name="sparsify",
    schema="(Tensor x, Tensor threshold, str rule) -> Tensor",
    reference=_reference,
    fake=_fake,
    cost=_cost,
    onnx=_onnx,
    backward=(_setup_context, _backward),
    summary="set x to zero under a threshold, of its magnitude or its value",
)
