"""Accuracy against the bit error rate: the mean with its interval as a band, what the worst draws did, and the fault-free run as a line."""

from __future__ import annotations

import math
from collections.abc import Sequence

from effc.faultsim.gates import short
from effc.faultsim.reports.scales import Scale, decades, linear, logarithmic, nice_ticks
from effc.faultsim.reports.texts import hover, percent, with_interval
from effc.faultsim.statistics.estimate import Estimate
from effc.faultsim.summary import GroupSummary
from effc.report.svg import document, text

__all__ = ["draw_accuracy"]

_WIDTH, _HEIGHT = 640.0, 320.0
_LEFT, _RIGHT, _TOP, _BASE = 56.0, 622.0, 34.0, 262.0


def draw_accuracy(groups: Sequence[GroupSummary], golden: Estimate | None) -> str:
    """The drawing as inline SVG; rates to the right on a logarithmic axis. Groups without a rate or an accuracy are left out."""
    points = sorted(
        (
            (group.rate, group.accuracy, group)
            for group in groups
            if group.rate is not None and group.rate > 0 and group.accuracy is not None
        ),
        key=lambda point: point[0],
    )
    if not points:
        return ""
    x = _rates([rate for rate, _, _ in points])
    floor = _floor(points, golden)
    y = linear(floor, 1.0, _BASE, _TOP)
    parts = _axes(x, y, floor, [rate for rate, _, _ in points])
    if golden is not None:
        at = y(golden.value)
        parts.append(f'<line x1="{_LEFT:.0f}" y1="{at:.1f}" x2="{_RIGHT:.0f}" y2="{at:.1f}" class="golden"/>')
        parts.append(text(_RIGHT, at - 6, f"without faults {percent(golden.value)}", "axis goldword", "end", with_interval(golden)))
    upper = [f"{x(rate):.1f},{y(mean.high):.1f}" for rate, mean, _ in points]
    lower = [f"{x(rate):.1f},{y(mean.low):.1f}" for rate, mean, _ in reversed(points)]
    parts.append(f'<polygon points="{" ".join(upper + lower)}" class="surely"/>')
    parts.append(_line([(x(rate), y(group.accuracy_p5)) for rate, _, group in points if group.accuracy_p5 is not None], "fifth"))
    parts.append(_line([(x(rate), y(mean.value)) for rate, mean, _ in points], "mean"))
    for rate, mean, group in points:
        parts += _marks(x(rate), y, mean, group)
    return document(parts, _WIDTH, _HEIGHT, "accuracy against the bit error rate", "wide")


def _rates(rates: list[float]) -> Scale:
    """A little room on both sides; a decade on each where there is only one rate."""
    room = 10.0 if rates[0] == rates[-1] else (rates[-1] / rates[0]) ** 0.06
    return logarithmic(rates[0] / room, rates[-1] * room, _LEFT, _RIGHT)


def _floor(points: Sequence[tuple[float, Estimate, GroupSummary]], golden: Estimate | None) -> float:
    """The tenth below everything that is drawn."""
    drawn = [end for _, mean, group in points for end in (mean.low, group.accuracy_min, group.accuracy_p5)]
    drawn += [golden.value] if golden is not None else []
    least = min((value for value in drawn if value is not None and math.isfinite(value)), default=0.0)
    return min(max(math.floor(10 * least - 0.2) / 10, 0.0), 0.9)


def _axes(x: Scale, y: Scale, floor: float, rates: list[float]) -> list[str]:
    parts = []
    for value in nice_ticks(floor, 1.0, 6):
        at = y(value)
        parts.append(f'<line x1="{_LEFT:.0f}" y1="{at:.1f}" x2="{_RIGHT:.0f}" y2="{at:.1f}" class="grid"/>')
        parts.append(text(_LEFT - 7, at + 4, f"{100 * value:.0f} %", "axis", "end"))
    parts.append(f'<line x1="{_LEFT:.0f}" y1="{_BASE:.0f}" x2="{_RIGHT:.0f}" y2="{_BASE:.0f}" class="grid zero"/>')
    ticks = decades(rates[0], rates[-1]) or rates
    for value in ticks:
        parts.append(f'<line x1="{x(value):.1f}" y1="{_BASE:.0f}" x2="{x(value):.1f}" y2="{_BASE + 5:.0f}" class="grid zero"/>')
        parts.append(text(x(value), _BASE + 19, short(float(f"{value:.3g}")), "axis", "middle"))
    parts.append(text(8, 16, "accuracy", "axis"))
    parts.append(text((_LEFT + _RIGHT) / 2, _HEIGHT - 18, "bit error rate", "axis", "middle"))
    return parts


def _line(points: Sequence[tuple[float, float]], css: str) -> str:
    return f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}" class="{css}"/>' if len(points) > 1 else ""


def _marks(at: float, y: Scale, mean: Estimate, group: GroupSummary) -> list[str]:
    """The least accuracy as a triangle, the 5th percentile as a dash, the mean as a dot with its interval."""
    parts = []
    if group.accuracy_min is not None:
        low = y(group.accuracy_min)
        words = hover(f"{group.name}: least {percent(group.accuracy_min)}")
        parts.append(f'<path d="M{at - 4.5:.1f} {low - 7:.1f}H{at + 4.5:.1f}L{at:.1f} {low:.1f}z" class="least">{words}</path>')
    if group.accuracy_p5 is not None:
        low = y(group.accuracy_p5)
        words = hover(f"{group.name}: 5th percentile {percent(group.accuracy_p5)}")
        parts.append(f'<rect x="{at - 6:.1f}" y="{low - 1.5:.1f}" width="12" height="3" class="fifthmark">{words}</rect>')
    parts.append(f'<line x1="{at:.1f}" y1="{y(mean.low):.1f}" x2="{at:.1f}" y2="{y(mean.high):.1f}" class="whisker"/>')
    words = hover(f"{group.name}: mean {with_interval(mean)} from {group.injections:,} injections")
    parts.append(f'<circle cx="{at:.1f}" cy="{y(mean.value):.1f}" r="4" class="dot">{words}</circle>')
    return parts
