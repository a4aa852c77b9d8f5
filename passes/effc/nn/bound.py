"""`Bound`: a bounded activation whose bounds can be trained.

    protected = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), Bound(torch.tensor(6.0)))     # one bound a layer; mode "zero"

Mode `zero` is the activation of FT-ClipAct (arXiv 1912.00941, eq. 1) when deployed, and of FitAct (FitReLU, arXiv 2112.13544) and ProAct
(HyReLU, arXiv 2406.06313) while its bounds train; mode `clamp` is Ranger's (arXiv 2003.13874). Evaluation, and so every exported
program, computes the hard form, `effc::bound`. The smooth form and how it differs from the papers: `effc.ir.ops.bound.smooth_bound`.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from effc.errors import ConfigError, UsageError
from effc.ir.ops.bound import MODES, SLOPE, bound_in_training

__all__ = ["Bound"]


class Bound(nn.Module):
    """Keep values inside [lower, upper]: what is outside becomes 0 (`zero`) or the bound (`clamp`), NaN becomes lower.

    Args:
        upper: a number, or a tensor: () is one bound a layer, (C, 1, 1) one a channel, (C, H, W), or (D,) behind a linear layer, one a
            neuron. Infinity is no bound.
        lower: likewise; None is 0 without a stored number, for what stands behind a ReLU.
        mode: `zero` or `clamp`.
        slope: of the smooth form of mode `zero`, relative to the bound; over 0. Unused for `clamp`.

    Attributes:
        upper, lower: parameters of those shapes (lower may be None). In training mode, where one of them requires a gradient, the smooth
            form is computed; in evaluation mode and for frozen bounds the hard form.

    Shape:
        x: (N, ...) as the bounds have it behind the batch axis, floating point. Result: the same shape and dtype.

    Raises:
        ConfigError: an argument is out of range: lower over upper, for `zero` a range without 0 inside, NaN, an unknown mode.
        UsageError: when called: the bounds do not fit x without its batch axis.
    """

    upper: nn.Parameter
    lower: nn.Parameter | None

    def __init__(
        self,
        upper: Tensor | float,
        lower: Tensor | float | None = None,
        *,
        mode: Literal["zero", "clamp"] = "zero",
        slope: float = SLOPE,
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise ConfigError(f"Bound: mode is {mode!r}, must be one of {MODES}")
        if not (math.isfinite(slope) and slope > 0.0):
            raise ConfigError(f"Bound: slope is {slope!r}, must be finite and over 0")
        high = _floating(upper, "upper")
        low = None if lower is None else _floating(lower, "lower").to(high.dtype)
        _check_range(high, low, mode)
        self.mode, self.slope = mode, float(slope)
        self.upper = nn.Parameter(high)
        self.register_parameter("lower", None if low is None else nn.Parameter(low))

    def forward(self, x: Tensor) -> Tensor:
        for name, bound in (("upper", self.upper), ("lower", self.lower)):
            if bound is not None and not _fits(bound, x):
                why = "a bound is one number or has x's shape without the batch axis, with 1 where it is shared"
                raise UsageError(f"Bound: {name} has the shape {list(bound.shape)}, x {list(x.shape)}; {why}")
        return bound_in_training(x, self.lower, self.upper, self.mode, self.training, self.slope)

    def extra_repr(self) -> str:
        lower = None if self.lower is None else tuple(self.lower.shape)
        return f"upper={tuple(self.upper.shape)}, lower={lower}, mode={self.mode!r}, slope={self.slope}"


def _floating(value: Tensor | float, name: str) -> Tensor:
    """A tensor of its own. Broken numbers stop here: NaN compares with nothing, so as a bound it would let everything pass."""
    tensor = value.detach().clone() if isinstance(value, Tensor) else torch.tensor(float(value))
    if not tensor.is_floating_point() or bool(torch.isnan(tensor).any()):
        raise ConfigError(f"Bound: {name} must be a floating-point tensor or a number, without NaN")
    return tensor


def _check_range(upper: Tensor, lower: Tensor | None, mode: str) -> None:
    low = torch.zeros((), dtype=upper.dtype, device=upper.device) if lower is None else lower
    try:
        ordered = bool((low <= upper).all())
    except RuntimeError as error:
        raise ConfigError(f"Bound: lower has the shape {list(low.shape)}, upper {list(upper.shape)}; they must broadcast") from error
    if not ordered:
        raise ConfigError(f"Bound: {'upper is under 0 and there is no lower' if lower is None else 'lower is over upper'} somewhere")
    if mode == "zero" and (bool((low > 0).any()) or bool((upper < 0).any())):
        raise ConfigError(
            "Bound: mode 'zero' gives 0 outside of the bounds, so lower must be at most 0 and upper at least 0; or use 'clamp'"
        )


def _fits(bound: Tensor, x: Tensor) -> bool:
    return bound.ndim == 0 or (bound.ndim == x.ndim - 1 and all(b in (1, n) for b, n in zip(bound.shape, x.shape[1:], strict=True)))
