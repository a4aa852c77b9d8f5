"""Axes of the drawings: where a value stands, and which values get a tick."""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["Scale", "clipped", "decades", "linear", "logarithmic", "nice_ticks"]

Scale = Callable[[float], float]


def linear(low: float, high: float, start: float, end: float) -> Scale:
    """Values from `low` to `high` at pixels from `start` to `end`; values beyond stand at the edge."""
    span = (high - low) or 1.0
    return lambda value: start + (end - start) * (clipped(value, low, high) - low) / span


def logarithmic(low: float, high: float, start: float, end: float) -> Scale:
    """The same by the logarithm; what is not above zero stands at the lower edge."""
    inner = linear(math.log10(low), math.log10(high), start, end)
    return lambda value: inner(math.log10(clipped(value, low, high)))


def clipped(value: float, low: float, high: float) -> float:
    """Within the limits; NaN is the lower one."""
    return low if math.isnan(value) else min(max(value, low), high)


def decades(low: float, high: float) -> list[float]:
    """Powers of ten between two positive values, both included."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    return [10.0**exponent for exponent in range(first, last + 1)]


def nice_ticks(low: float, high: float, most: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten between two values: at most `most` + 1."""
    if not high > low:
        return [low]
    least = (high - low) / most
    power = 10.0 ** math.floor(math.log10(least))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least * (1 - 1e-9))
    return [step * index for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
