"""Where the ticks of an axis stand, and what is written at them."""

from __future__ import annotations

import math

__all__ = ["step_over", "tick_text", "ticks"]


def step_over(least: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is not under `least`, which is positive."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least * (1 - 1e-9))


def ticks(low: float, high: float, step: float) -> list[float]:
    """The multiples of `step` from `low` to `high`."""
    return [step * index for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def tick_text(value: float, step: float) -> str:
    """As many places as tell two ticks apart."""
    if not 1e-5 <= step < 1e5:
        return f"{value:.3g}"
    return f"{value:,.{max(0, -math.floor(math.log10(step)))}f}"
