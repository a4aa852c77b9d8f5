"""`StatisticalTopK`: about a share of each row stays, found by its mean and standard deviation instead of a sort.

    theta = mean(x) + deviations * std(x)       over the last axis; std without Bessel's correction
    y = max(x - theta, 0)                       the form `soft`; see `effc::statistical_top_k` for `hard` and `mask`

This is StatTopK_k of You et al., "Spark Transformer" (arXiv 2506.06644), with deviations = Q(1 - share), Q the quantile
function of the standard normal distribution. The share is right for Gaussian rows only: of a Laplace row 14 % fewer than 8 % stay.
`fit` finds the deviations for other inputs. The soft form shifts every value, so it is nothing to put into a network that was trained
dense; `hard` is.

Smoothing. Theorem 3.2 of the paper makes the soft form differentiable by a Huber-smoothed threshold. Its exact constant was not
available when this was written; the choice here is, with u = x - theta and delta = smoothing * std(x),

    y = 0                  for u <= 0
        u^2 / (2 delta)    for 0 < u <= delta
        u - delta / 2      above

which is continuous with a continuous derivative, and at most delta / 2 under the exact form. Gradients flow through theta and delta.
Only training mode is smoothed; evaluation, and so every exported program, has the exact form.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Literal

import torch
from torch import Tensor, nn

from effc.errors import ConfigError, DataError
from effc.ir.ops.statistical_top_k import FORMS, STATISTICAL_TOP_K

__all__ = ["StatisticalTopK"]

_statistical_top_k = STATISTICAL_TOP_K.overload


class StatisticalTopK(nn.Module):
    """Keep about `share` of the last axis.

    Args:
        share: the wanted share of elements over theta, in (0, 1).
        smoothing: width of the smoothed part in standard deviations of the row; 0 trains the exact form. Needs the form `soft`.
        form: `soft` (x - theta where positive), `hard` (x, else 0) or `mask` (x, else minus infinity: before a softmax).

    Attributes:
        deviations: the distance of theta from the mean in standard deviations. A number of the program, no parameter: it is part of the
            state dict (as extra state), and a constant of an exported graph.

    Shape:
        x: (..., d), floating point. Result: the same shape and dtype.

    Raises:
        ConfigError: an argument is out of range, or smoothing is given for a form without it.
    """

    def __init__(self, share: float, smoothing: float = 0.0, form: Literal["soft", "hard", "mask"] = "soft") -> None:
        super().__init__()
        if not 0.0 < share < 1.0:
            raise ConfigError(f"StatisticalTopK: share is {share!r}, must lie between 0 and 1, without both")
        if form not in FORMS:
            raise ConfigError(f"StatisticalTopK: form is {form!r}, must be one of {FORMS}")
        if not (math.isfinite(smoothing) and smoothing >= 0.0):
            raise ConfigError(f"StatisticalTopK: smoothing is {smoothing!r}, must be a finite number of deviations, at least 0")
        if smoothing and form != "soft":
            raise ConfigError(f"StatisticalTopK: the form {form!r} has no smoothed threshold; give smoothing=0 or form='soft'")
        self.share = float(share)
        self.smoothing = float(smoothing)
        self.form = form
        self.deviations = -NormalDist().inv_cdf(self.share)  # Q(1 - share), without losing digits of a small share

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.smoothing:
            return _smoothed(x, self.deviations, self.smoothing)
        result: Tensor = _statistical_top_k(x, self.deviations, self.form)
        return result

    @torch.no_grad()
    def fit(self, x: Tensor) -> float:
        """Set `deviations` so that `share` of the elements of these rows is over theta, whatever their distribution.

        The new value is the empirical quantile of the rows' standardised elements, (x - mean) / std: of N of them, round(share * N) are
        larger. Rows whose elements are all equal have no standardised form and are left out (nothing of them ever stays). Equal
        elements at the quantile make the share smaller than wanted.

        Args:
            x: representative inputs, (..., d), floating point, finite.

        Returns:
            The new deviations.

        Raises:
            DataError: not floating point, not finite, or no two elements of a row differ.
        """
        if x.ndim == 0 or not x.dtype.is_floating_point or x.numel() == 0:
            raise DataError(f"StatisticalTopK.fit: x is {x.dtype}{list(x.shape)}; give floating-point rows along the last axis")
        if not bool(torch.isfinite(x).all()):
            raise DataError("StatisticalTopK.fit: x holds NaN or infinities, which have no quantile; leave those rows out")
        centred, deviation = _statistics(x.reshape(-1, x.shape[-1]).double())
        varied = deviation.squeeze(-1) > 0
        standard = (centred[varied] / deviation[varied]).flatten()
        if standard.numel() == 0:
            raise DataError("StatisticalTopK.fit: every row of x is constant; give rows whose elements differ")
        count = standard.numel()
        over = min(max(1, round(self.share * count)), count - 1)
        largest_under = standard.kthvalue(count - over).values
        smallest_over = standard.kthvalue(count - over + 1).values
        self.deviations = float((largest_under + smallest_over) / 2)
        return self.deviations

    def get_extra_state(self) -> Tensor:
        """`deviations`, a float64 scalar: a fit is kept with the weights."""
        return torch.tensor(self.deviations, dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        """Take over saved `deviations`."""
        self.deviations = float(state)

    def extra_repr(self) -> str:
        return f"share={self.share}, smoothing={self.smoothing}, form={self.form!r}, deviations={self.deviations:.6g}"


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """The centred rows and the standard deviation of each, whose gradient is 0 where it is 0 (a square root's would be infinite)."""
    centred = x - x.mean(-1, keepdim=True)
    variance = (centred * centred).mean(-1, keepdim=True)
    varied = variance > 0
    deviation = torch.where(varied, variance, torch.ones_like(variance)).sqrt()
    return centred, torch.where(varied, deviation, torch.zeros_like(deviation))


def _smoothed(x: Tensor, deviations: float, smoothing: float) -> Tensor:
    centred, deviation = _statistics(x)
    over = torch.relu(centred - deviations * deviation)
    delta = smoothing * deviation
    divisor = torch.where(delta > 0, delta, torch.ones_like(delta))
    return torch.where(over <= delta, over * over / (2 * divisor), over - delta / 2)
