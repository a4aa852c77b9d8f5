"""`DeltaActivation`: an activation that passes on what changed since the frame before, in steps whose size is trained.

    Z(t) = Z(t-1) + x(t)                              sigma: x is what a linear operator without bias made of deltas
    O(t) = pool(q * round(act(Z(t) + b) / q))         q = |theta|, the step, and b, the bias, train
    d(t) = O(t) - O(t-1)                              the delta, taken after quantisation: it is 0 where no step was crossed

This is the Delta Activation Layer of Yousefzadeh and Sifalakis (arXiv 2107.07305). As the delta is taken of quantised values, the deltas of
all frames up to t add up to O(t) exactly: nothing drifts, and the network computes what its dense form (`dense`) computes on every frame by
itself. A variant that takes the delta first and rounds it, or that loses what it did not pass on, has no such form.

Gradients, as in the authors' code: x has that of a straight-through estimator, the step has the negative of its own,

    dL/dx = dL/dy        dL/dq = -round(x / q) * dL/dy        for y = q * round(x / q)

so that a loss on |d| makes steps grow (fewer are crossed) and the loss of the task makes them shrink. The sparsity loss of a layer is

    fan_out * mean |d(t)|       over samples, neurons and all frames but the first
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from effc.errors import ConfigError, UsageError

__all__ = ["DeltaActivation", "quantise"]

_FLOOR = 2.0**-60  # of a step: a theta that trains through 0 divides by nothing smaller


class DeltaActivation(nn.Module):
    """Integrate, activate, quantise, and pass on the difference to the frame before; see the module docstring.

    Args:
        act: the activation, element by element; None is the identity.
        step: where theta starts, over 0, in the unit of the activation: a number, or a tensor: () is one step a layer, (C, 1, 1) one a
            channel, (C, H, W) one a neuron. None does not quantise.
        bias: b, a tensor of such a shape, or None.
        pool: a pooling of frames (M, C, ...) between quantisation and delta, where a max pool belongs.
        sigma: whether x is a sequence of deltas; False for frames.
        level: what is passed on. 0: O itself. 1: deltas; the first frame, and with it the background, in full. 2: deltas; the first frame
            counts as seen and passes nothing on, as from an event camera.
        fan_out: multiply-accumulates that one delta causes in the operators behind it; the weight in the sparsity loss.

    Attributes:
        theta: the parameter behind the step, or None; `bias`: the parameter b, or None.

    Shape:
        x: (N, T, ...) floating point, T frames in order. Result: (N, T, ...) as `pool` makes it, of the same dtype.

    Raises:
        ConfigError: an argument is out of range.
        UsageError: when called: x has no frames, or theta or bias do not fit them.
    """

    theta: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(
        self,
        act: nn.Module | None = None,
        step: Tensor | float | None = 1.0,
        *,
        bias: Tensor | None = None,
        pool: nn.Module | None = None,
        sigma: bool = True,
        level: Literal[0, 1, 2] = 1,
        fan_out: float = 1.0,
    ) -> None:
        super().__init__()
        if level not in (0, 1, 2):
            raise ConfigError(f"DeltaActivation: level is {level!r}, must be 0 (no delta), 1 or 2 (drop the first frame)")
        if not (math.isfinite(fan_out) and fan_out >= 0.0):
            raise ConfigError(f"DeltaActivation: fan_out is {fan_out!r}, must be finite and at least 0")
        self.act, self.pool, self.sigma, self.level, self.fan_out = act, pool, bool(sigma), int(level), float(fan_out)
        self._frozen = False
        theta = None if step is None else torch.as_tensor(step, dtype=None if isinstance(step, Tensor) else torch.get_default_dtype())
        if theta is not None and not (theta.is_floating_point() and bool((theta > 0).all()) and bool(theta.isfinite().all())):
            raise ConfigError("DeltaActivation: step must be a number or a floating-point tensor, finite and over 0")
        if bias is not None and not (bias.is_floating_point() and bool(bias.isfinite().all())):
            raise ConfigError("DeltaActivation: bias must be a finite floating-point tensor")
        self.register_parameter("theta", None if theta is None else nn.Parameter(theta.detach().clone()))
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias.detach().clone()))

    # ---- sequences -----------------------------------------------------------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim < 2 or x.shape[1] == 0:
            raise UsageError(f"DeltaActivation: x has the shape {list(x.shape)}; it is a sequence (N, T, ...) of at least one frame")
        summed = x.cumsum(1) if self.sigma else x
        level = self._activated(summed.flatten(0, 1))
        level = level if self.theta is None else quantise(level, self.theta)
        frames = self._pooled(level)
        out = frames.reshape(*x.shape[:2], *frames.shape[1:])
        if self.level == 0:
            return out
        first = out[:, :1] if self.level == 1 else torch.zeros_like(out[:, :1])
        return torch.cat([first, out[:, 1:] - out[:, :-1]], 1)

    def sparsity(self, passed: Tensor) -> Tensor:
        """The layer's sparsity loss of what it passed on, (N, T, ...): fan_out * mean |d|, without the first frame; with it for level 0."""
        counted = passed[:, 1:] if self.level else passed
        mean: Tensor = counted.abs().mean() if counted.numel() else counted.sum()
        return self.fan_out * mean

    def density(self, passed: Tensor) -> Tensor:
        """The share of what it passed on, (N, T, ...), that is not 0 (L0), over the same frames; 0 for a single frame of deltas."""
        counted = (passed[:, 1:] if self.level else passed).detach()
        return counted.count_nonzero() / max(counted.numel(), 1)

    # ---- single frames -------------------------------------------------------------------------------------------------------

    @property
    def step(self) -> Tensor | None:
        """q = |theta|, or None."""
        return self.theta if self.theta is None or self._frozen else _step(self.theta)

    def freeze(self) -> None:
        """Make theta the step itself and train no more: an exported program then holds a constant and not how it was made."""
        if self.theta is not None:
            with torch.no_grad():
                self.theta.copy_(_step(self.theta))
        self.requires_grad_(False)
        self._frozen = True

    def dense(self, total: Tensor) -> Tensor:
        """O of frames by themselves.

        Args:
            total: Z, (M, ...).

        Returns:
            (M, ...): quantised, pooled, no delta. Without a useful gradient for the step; it is what programs are made of.
        """
        level, step = self._activated(total), self.step
        return self._pooled(level if step is None else torch.round(level / step) * step)

    @property
    def state_names(self) -> tuple[str, ...]:
        """What `advance` keeps between frames: `sum` is Z, `previous` is O, `started` (N,) int32 is 1 after a first frame of level 2."""
        names = [("sum", self.sigma), ("previous", self.level > 0), ("started", self.level == 2)]
        return tuple(name for name, needed in names if needed)

    def advance(self, x: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One frame of `forward`.

        Args:
            x: (N, ...), the frame.
            states: as `state_names` has them, zeros before the first frame.

        Returns:
            What is passed on, (N, ...), and the new states.
        """
        old = dict(zip(self.state_names, states, strict=True))
        total = old["sum"] + x if self.sigma else x
        out = self.dense(total)
        new = {"sum": total, "previous": out}
        passed = out if self.level == 0 else out - old["previous"]
        if self.level == 2:
            new["started"] = torch.ones_like(old["started"])
            started = (old["started"] > 0).reshape(-1, *(1,) * (out.ndim - 1))
            passed = torch.where(started, passed, torch.zeros_like(passed))
        return passed, tuple(new[name] for name in self.state_names)

    # ---- parts ---------------------------------------------------------------------------------------------------------------

    def _activated(self, total: Tensor) -> Tensor:
        for name, value in (("bias", self.bias), ("theta", self.theta)):
            if value is not None and not _fits(value, total):
                why = "it is one number or has the shape of a frame, with 1 where it is shared"
                raise UsageError(f"DeltaActivation: {name} has the shape {list(value.shape)}, a frame {list(total.shape[1:])}; {why}")
        biased = total if self.bias is None else total + self.bias
        result: Tensor = biased if self.act is None else self.act(biased)
        return result

    def _pooled(self, level: Tensor) -> Tensor:
        result: Tensor = level if self.pool is None else self.pool(level)
        return result

    def extra_repr(self) -> str:
        theta = None if self.theta is None else tuple(self.theta.shape)
        bias = None if self.bias is None else tuple(self.bias.shape)
        return f"theta={theta}, bias={bias}, sigma={self.sigma}, level={self.level}, fan_out={self.fan_out:g}"


def quantise(x: Tensor, theta: Tensor) -> Tensor:
    """q * round(x / q), q = |theta|, halves to even, with the gradients of the layer.

    Args:
        x: (M, ...), floating point.
        theta: broadcasts against x without its first axis. Under 2**-60 the step is 2**-60.

    Returns:
        A tensor like x. dL/dx = dL/dy; dL/dtheta = -sign(theta) * sum of round(x / q) * dL/dy, the negative of the derivative on purpose:
        descent on a loss of magnitudes makes the step grow.
    """
    result: Tensor = _Quantise.apply(x, theta)  # type: ignore[no-untyped-call]
    return result


class _Quantise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, theta: Tensor) -> Tensor:
        step = _step(theta)
        codes = torch.round(x / step)
        ctx.save_for_backward(codes, theta)
        return codes * step

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        codes, theta = ctx.saved_tensors
        if not ctx.needs_input_grad[1]:
            return grad, None
        sign = torch.where(theta < 0, -1.0, 1.0).to(theta.dtype)
        return grad, -sign * (codes * grad).sum_to_size(theta.shape)


def _step(theta: Tensor) -> Tensor:
    return theta.abs().clamp_min(_FLOOR)


def _fits(value: Tensor, x: Tensor) -> bool:
    return value.ndim == 0 or (value.ndim == x.ndim - 1 and all(v in (1, n) for v, n in zip(value.shape, x.shape[1:], strict=True)))
