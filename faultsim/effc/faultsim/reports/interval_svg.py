"""Shares with their intervals, a row each: bars on an even axis, or dots on a logarithmic one where shares differ by powers of ten."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from effc.faultsim.reports.scales import Scale, decades, linear, logarithmic, nice_ticks
from effc.faultsim.reports.texts import hover, percent, visible, with_interval
from effc.faultsim.statistics.estimate import Estimate
from effc.report.svg import document, shortened, text

__all__ = ["Bar", "draw_intervals"]

_WIDTH, _LEFT, _RIGHT, _TOP, _ROW, _FOOT = 556.0, 132.0, 400.0, 22.0, 17.0, 26.0
_NAME = 20  # characters of a label
_LEAST, _MOST = 1e-7, 1e-2  # limits of where a logarithmic axis begins


@dataclass(frozen=True)
class Bar:
    """One row. `estimate` is None where nothing was measured; `aside` is written at the end."""

    label: str
    estimate: Estimate | None
    aside: str = ""
    hover: str = ""


def draw_intervals(bars: Sequence[Bar], what: str, aside: str = "", log: bool = False) -> str:
    """The drawing as inline SVG.

    Args:
        bars: rows, in order; shares in [0, 1].
        what: the axis, in words. `aside`: head of the last column.
        log: a logarithmic axis; an estimate of zero has no dot there, only the interval up to what is not excluded.
    """
    if not bars:
        return ""
    height = _TOP + _ROW * len(bars) + _FOOT
    x, ticks = _logarithmic(bars) if log else _linear(bars)
    parts = []
    for value in ticks:
        parts.append(f'<line x1="{x(value):.1f}" y1="{_TOP - 2:.0f}" x2="{x(value):.1f}" y2="{height - _FOOT:.0f}" class="grid"/>')
        parts.append(text(x(value), _TOP - 7, f"{100 * value:.6g} %", "axis tiny", "middle"))
    for index, bar in enumerate(bars):
        parts += _row(bar, x, _TOP + _ROW * index, log)
    parts.append(text((_LEFT + _RIGHT) / 2, height - 8, what, "axis", "middle"))
    if aside:
        parts.append(text(_WIDTH - 10, height - 8, aside, "axis", "end"))
    return document(parts, _WIDTH, height, what, "wide")


def _row(bar: Bar, x: Scale, top: float, log: bool) -> list[str]:
    middle = top + _ROW / 2
    parts = [text(_LEFT - 7, top + 12, shortened(bar.label, _NAME), "axis", "end", visible(bar.label))]
    if bar.aside:
        parts.append(text(_WIDTH - 10, top + 12, bar.aside, "axis", "end"))
    one = bar.estimate
    if one is None:
        return [*parts, text(_LEFT + 6, top + 12, "no injection", "axis")]
    low, high = x(one.low), x(one.high)
    whisker = f"M{low:.1f} {middle:.1f}H{high:.1f}M{low:.1f} {middle - 3:.1f}v6M{high:.1f} {middle - 3:.1f}v6"
    words = hover(bar.hover or f"{bar.label}: {with_interval(one)}")
    if not log:
        parts.append(
            f'<rect x="{_LEFT:.0f}" y="{top + 3:.1f}" width="{x(one.value) - _LEFT:.1f}" height="{_ROW - 6:.0f}" class="bar">{words}</rect>'
        )
    parts.append(f'<path d="{whisker}" class="whisker">{words}</path>')
    if log and one.value > 0:
        parts.append(f'<circle cx="{x(one.value):.1f}" cy="{middle:.1f}" r="3.5" class="dot">{words}</circle>')
    parts.append(text(_RIGHT + 10, top + 12, percent(one.value), "axis"))
    return parts


def _linear(bars: Sequence[Bar]) -> tuple[Scale, list[float]]:
    ends = [end for bar in bars if bar.estimate is not None for end in (bar.estimate.value, bar.estimate.high) if math.isfinite(end)]
    last = min(max([*ends, 1e-9]), 1.0)
    return linear(0.0, last, _LEFT, _RIGHT), nice_ticks(0.0, last, 4)


def _logarithmic(bars: Sequence[Bar]) -> tuple[Scale, list[float]]:
    values = [bar.estimate.value for bar in bars if bar.estimate is not None and bar.estimate.value > 0]
    highs = [bar.estimate.high for bar in bars if bar.estimate is not None and bar.estimate.high > 0]
    first = min(max(min([*values, *highs], default=_MOST), _LEAST), _MOST)
    first = 10.0 ** math.floor(math.log10(first) - 0.2)  # no dot on the edge
    ticks = decades(first, 1.0)
    return logarithmic(first, 1.0, _LEFT, _RIGHT), ticks if len(ticks) <= 5 else ticks[::-2][::-1]
