"""Quality against measured sparsity: the points of a search, its budget, and the one that was kept."""

from __future__ import annotations

import html
import math
from collections.abc import Callable

from effc.report.axis import step_over, tick_text, ticks
from effc.report.sparsity import QualityCurve, QualityPoint
from effc.report.svg import document, text

__all__ = ["draw_curve"]

_WIDTH, _HEIGHT = 440.0, 250.0
_LEFT, _RIGHT, _TOP, _BASE = 64.0, 424.0, 30.0, 206.0
_BUDGETS = 5.0  # losses larger than this many budgets stand at the edge: else the budget itself could not be seen

Scale = Callable[[float], float]


def draw_curve(curve: QualityCurve) -> str:
    """The drawing as inline SVG; zeros to the right in percent, the metric upwards. Points without a finite value are left out."""
    low, high, y_step = _metric_axis(curve)
    first, last, x_step = _zeros_axis(curve)

    def x(zeros: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * (zeros - first) / (last - first)

    def y(value: float) -> float:
        return _BASE - (_BASE - _TOP) * (min(max(value, low), high) - low) / (high - low)

    parts = []
    for value in ticks(low, high, y_step):
        at = y(value)
        parts.append(f'<line x1="{_LEFT:.0f}" y1="{at:.1f}" x2="{_RIGHT:.0f}" y2="{at:.1f}" class="grid"/>')
        parts.append(text(_LEFT - 7, at + 4, tick_text(value, y_step), "axis", "end"))
    for zeros in ticks(first, last, x_step):
        parts.append(text(x(zeros), _BASE + 18, f"{100 * zeros:g}", "axis", "middle"))
    parts.append(f'<line x1="{_LEFT:.0f}" y1="{_BASE:.0f}" x2="{_RIGHT:.0f}" y2="{_BASE:.0f}" class="grid zero"/>')
    parts.append(text(8, 16, curve.label, "axis"))
    parts.append(text((_LEFT + _RIGHT) / 2, _HEIGHT - 8, "zeros, measured (%)", "axis", "middle"))
    if curve.budget is not None:
        at = y(curve.budget)
        parts.append(f'<line x1="{_LEFT:.0f}" y1="{at:.1f}" x2="{_RIGHT:.0f}" y2="{at:.1f}" class="budget"/>')
        side = -6 if curve.larger_is_better else 14  # the accepted side: few points with few zeros come near the budget there
        parts.append(text(_LEFT + 6, at + side, f"budget {curve.text(curve.budget)}", "axis accepted"))
    shown = [(point, point.value) for point in curve.points if point.value is not None]
    line = [f"{x(point.zeros):.1f},{y(value):.1f}" for point, value in sorted(shown, key=lambda one: one[0].zeros) if point.uniform]
    if len(line) > 1:
        parts.append(f'<polyline points="{" ".join(line)}" class="trend"/>')
    parts += [_mark(curve, point, value, x(point.zeros), y(value), low <= value <= high) for point, value in shown]
    return document(parts, _WIDTH, _HEIGHT, f"{curve.metric} against the share of zeros", "wide")


def _mark(curve: QualityCurve, point: QualityPoint, value: float, x: float, y: float, inside: bool) -> str:
    """A dot; a triangle at the edge for a value beyond it; a ring and a word for the one that was kept."""
    css = "even" if point.uniform else "uneven"
    hover = f"<title>{html.escape(f'{point.zeros:.1%} zeros: {curve.metric} {curve.text(value)}')}</title>"
    if inside:
        drawn = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" class="{css}">{hover}</circle>'
    else:
        tip = 6 if curve.larger_is_better else -6
        drawn = f'<path d="M{x - 4:.1f} {y - tip:.1f}H{x + 4:.1f}L{x:.1f} {y:.1f}z" class="{css}">{hover}</path>'
    if not point.kept:
        return drawn
    ring = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="7" class="kept"/>'
    return drawn + ring + text(min(max(x, _LEFT + 16), _RIGHT - 14), y - 11, "kept", "axis chosen", "middle")


def _metric_axis(curve: QualityCurve) -> tuple[float, float, float]:
    """Its lowest and highest value and the distance of its ticks."""
    values = [point.value for point in curve.points if point.value is not None]
    if curve.before is not None:
        if curve.max_drop:
            values = [value for value in values if abs(value - curve.before) <= _BUDGETS * curve.max_drop]
        values += [curve.before]
    if curve.budget is not None:
        values += [curve.budget]
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = 0.1 * (high - low) or 0.05 * abs(high) or 1.0
    low, high = low - room, high + room
    return low, high, step_over((high - low) / 5)


def _zeros_axis(curve: QualityCurve) -> tuple[float, float, float]:
    zeros = [point.zeros for point in curve.points if point.value is not None]
    first = math.floor(min(zeros, default=0.0) * 10 + 1e-9) / 10
    last = max(math.ceil(max(zeros, default=1.0) * 10 - 1e-9) / 10, first + 0.1)
    return first, last, step_over((last - first) / 8)
