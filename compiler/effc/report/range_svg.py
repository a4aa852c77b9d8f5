"""Ranges of activations: what calibration data showed, and the bounds that a pass put there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from effc.report.model import Range
from effc.report.svg import document, shortened, text

__all__ = ["draw_ranges"]

_WIDTH, _LEFT, _RIGHT, _ROW, _TOP = 960.0, 250.0, 150.0, 20.0, 22.0


def draw_ranges(ranges: Sequence[Range]) -> str:
    """The drawing as inline SVG; one row per value, on a scale that is linear around zero and logarithmic far from it."""
    scale, ticks = _scale(ranges)
    height = _TOP + _ROW * len(ranges) + 8
    parts = []
    for tick in ticks:
        x = scale(tick)
        css = "grid zero" if tick == 0 else "grid"
        parts.append(f'<line x1="{x:.1f}" y1="{_TOP - 4:.0f}" x2="{x:.1f}" y2="{height - 6:.0f}" class="{css}"/>')
        parts.append(text(x, _TOP - 9, f"{tick:g}", "axis", "middle"))
    parts.append(text(_WIDTH - _RIGHT + 12, _TOP - 9, "not zero", "axis"))
    for index, one in enumerate(ranges):
        y = _TOP + _ROW * index + _ROW / 2
        low, high = scale(one.minimum), scale(one.maximum)
        parts.append(text(_LEFT - 12, y + 4, shortened(one.name, 36), "label", "end", one.name))
        hover = f"seen {one.minimum:.6g} to {one.maximum:.6g}"
        bar = f'<rect x="{low:.1f}" y="{y - 5:.1f}" width="{max(high - low, 1):.1f}" height="10" rx="2" class="seen">'
        parts.append(f"{bar}<title>{hover}</title></rect>")
        for bound in (one.lower, one.upper):
            if bound is not None:
                x = scale(bound)
                line = f'<line x1="{x:.1f}" y1="{y - 8:.1f}" x2="{x:.1f}" y2="{y + 8:.1f}" class="bound">'
                parts.append(f"{line}<title>bound {bound:.6g}</title></line>")
        x = _WIDTH - _RIGHT + 12
        parts.append(f'<rect x="{x:.1f}" y="{y - 4:.1f}" width="80" height="8" rx="2" class="track"/>')
        parts.append(f'<rect x="{x:.1f}" y="{y - 4:.1f}" width="{80 * one.density:.1f}" height="8" rx="2" class="density"/>')
        parts.append(text(x + 86, y + 4, f"{one.density:.0%}", "axis"))
    return document(parts, _WIDTH, height, "ranges of activations and their bounds", "ranges wide")


def _scale(ranges: Sequence[Range]) -> tuple[Callable[[float], float], list[float]]:
    seen = [one.minimum for one in ranges] + [one.maximum for one in ranges]
    bounds = [bound for one in ranges for bound in (one.lower, one.upper) if bound is not None]
    values = [value for value in seen + bounds if math.isfinite(value)] or [0.0]
    low, high = min(*values, 0.0), max(*values, 0.0)
    bend = max(max(-low, high) / 100, 1e-9)  # linear below, logarithmic above

    def curve(value: float) -> float:
        return math.asinh(max(min(value, high), low) / bend)

    span = (curve(high) - curve(low)) or 1.0
    inner = _WIDTH - _LEFT - _RIGHT

    def scale(value: float) -> float:
        return _LEFT + inner * (curve(value) - curve(low)) / span

    largest = max(-low, high) or 1.0
    power = 10.0 ** math.floor(math.log10(largest))
    steps = [power / 10, power] if largest < 3 * power else [power / 10, power, 3 * power]
    ticks = sorted({0.0, *(sign * step for step in steps for sign in (1, -1) if low <= sign * step <= high)})
    return scale, ticks
