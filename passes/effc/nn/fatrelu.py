"""`FATReLU`: a ReLU with a threshold above zero, fixed or trained.

    hard         f(x) = x                               where x >= t, else 0
    piecewise    f(x) = x                               where x >= t, else max(t + c (x - t), 0)
    sigmoid      f(x) = max(x, 0) / (1 + exp(c (t - x)))
    exponential  f(x) = max(x, 0) * exp(c min(x - t, 0))

`hard` is the forced-activation-threshold ReLU of Kurtz et al., "Inducing and Exploiting Activation Sparsity for Fast Neural Network
Inference" (ICML 2020); with t = 0 it is a ReLU. Its threshold has no gradient. The soft forms, those of the authors' public
SparseML, have one, and tend to the hard form as the sharpness c grows; they stand in for it in training mode only. Evaluation, and so
every exported program, computes the hard form, `effc::sparsify` with the rule `value`.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from effc.errors import ConfigError, UsageError
from effc.ir.ops.sparsify import SPARSIFY

__all__ = ["FORMS", "FATReLU"]

FORMS = ("hard", "piecewise", "sigmoid", "exponential")
_sparsify = SPARSIFY.overload


class FATReLU(nn.Module):
    """Zero below a threshold.

    Args:
        threshold: the threshold, or where it starts from; finite, at least 0.
        channels: None for one threshold a layer, else the number of channels, each with its own.
        channel_axis: the axis of x that holds the channels; not 0, the batch.
        form: what training mode computes.
        sharpness: c. The slope under the threshold for `piecewise`, where it must be over 1; over 0 for the others; unused for `hard`.

    Attributes:
        threshold: a parameter of shape () or (channels,); it requires a gradient unless `form` is `hard`. The task loss alone moves it to
            where more is kept; a sparsity loss on the outputs (`effc.nn.hoyer_square`) pulls the other way. Nothing keeps it over 0
            but those; where weight decay is used, leave it out of it.

    Shape:
        x: any shape with at least `channel_axis` + 1 axes if `channels` is given, floating point. Result: the same shape and dtype.

    Raises:
        ConfigError: an argument is out of range.
        UsageError: when called: x has no such axis, or another number of channels.
    """

    def __init__(
        self,
        threshold: float,
        channels: int | None = None,
        channel_axis: int = 1,
        form: Literal["hard", "piecewise", "sigmoid", "exponential"] = "hard",
        sharpness: float = 10.0,
    ) -> None:
        super().__init__()
        if not (math.isfinite(threshold) and threshold >= 0.0):
            raise ConfigError(f"FATReLU: threshold is {threshold!r}, must be finite and at least 0")
        if channels is not None and channels < 1:
            raise ConfigError(f"FATReLU: channels is {channels}, must be at least 1, or None for one threshold a layer")
        if channels is not None and channel_axis == 0:
            raise ConfigError("FATReLU: channel_axis is 0, which is the batch; give the axis of the channels")
        if form not in FORMS:
            raise ConfigError(f"FATReLU: form is {form!r}, must be one of {FORMS}")
        least = 1.0 if form == "piecewise" else 0.0
        if not (math.isfinite(sharpness) and sharpness > least):
            raise ConfigError(f"FATReLU: sharpness is {sharpness!r}, must be finite and over {least:g} for the form {form!r}")
        self.channels, self.channel_axis, self.form, self.sharpness = channels, channel_axis, form, float(sharpness)
        initial = torch.full(() if channels is None else (channels,), float(threshold))
        self.threshold = nn.Parameter(initial, requires_grad=form != "hard")

    def forward(self, x: Tensor) -> Tensor:
        threshold = self._along(x)
        if self.training and self.form != "hard":
            return self._soft(x, threshold)
        result: Tensor = _sparsify(x, threshold, "value")
        return result

    def _along(self, x: Tensor) -> Tensor:
        """The threshold, shaped to broadcast along the channel axis."""
        if self.channels is None:
            return self.threshold
        axis = self.channel_axis if self.channel_axis >= 0 else x.ndim + self.channel_axis
        if not 0 < axis < x.ndim or x.shape[axis] != self.channels:
            why = f"axis {self.channel_axis} must hold {self.channels} channels and not be the batch"
            raise UsageError(f"FATReLU: x has the shape {list(x.shape)}; {why}")
        return self.threshold.reshape(-1, *(1,) * (x.ndim - axis - 1))

    def _soft(self, x: Tensor, threshold: Tensor) -> Tensor:
        threshold = threshold.to(x.dtype)
        over = x - threshold
        if self.form == "piecewise":
            return torch.where(over >= 0, x, torch.relu(threshold + self.sharpness * over))
        if self.form == "sigmoid":
            return torch.relu(x) * torch.sigmoid(self.sharpness * over)
        return torch.relu(x) * torch.exp(self.sharpness * over.clamp_max(0))

    def extra_repr(self) -> str:
        return f"channels={self.channels}, channel_axis={self.channel_axis}, form={self.form!r}, sharpness={self.sharpness}"
