"""How the magnitudes of a value are spread: bars from 0 upwards, exact zeros in a bar apart, and what a threshold has made zero."""

from __future__ import annotations

from effc.report.sparsity import Magnitudes, Spread
from effc.report.svg import document, text

__all__ = ["draw_magnitudes"]

_WIDTH, _HEIGHT = 230.0, 92.0
_LEFT, _RIGHT, _TOP, _BASE = 48.0, 222.0, 8.0, 72.0  # of the bars
_ZEROS, _ZEROS_WIDTH = 14.0, 14.0
_TALL, _INNER = _BASE - _TOP, _RIGHT - _LEFT


def draw_magnitudes(one: Magnitudes) -> str:
    """The drawing as inline SVG.

    The bar of zeros is as tall as the frame where all elements are zero. The others show shares for each unit of magnitude, before and
    after on one scale, so that what only the first has is what was made zero.
    """
    spreads = [spread for spread in (one.before, one.after) if spread is not None]
    end = max((spread.upper for spread in spreads), default=0.0)
    peak = max((_height(spread) for spread in spreads), default=0.0)
    parts = [*_zeros(one), f'<line x1="{_LEFT:.0f}" y1="{_BASE:.0f}" x2="{_RIGHT:.0f}" y2="{_BASE:.0f}" class="grid zero"/>']
    for index, spread in enumerate(spreads):
        css = "seen" if index == len(spreads) - 1 else "dropped"
        if spread.upper > 0 and peak > 0:
            parts.append(f'<path d="{_outline(spread, end, peak)}" class="{css}"><title>{_over(spread)}</title></path>')
    if one.threshold is not None:
        parts += _threshold(one.threshold, end)
    parts.append(text(_ZEROS + _ZEROS_WIDTH / 2, _HEIGHT - 6, "zeros", "axis", "middle"))
    parts.append(text(_LEFT, _HEIGHT - 6, "0", "axis", "middle"))
    if end > 0:
        parts.append(text(_RIGHT, _HEIGHT - 6, f"{end:.3g}", "axis", "end"))
    return document(parts, _WIDTH, _HEIGHT, f"magnitudes of {one.name}: {one.words}", "wide")


def _height(spread: Spread) -> float:
    """Of the tallest bin: the share of elements for one unit of magnitude."""
    return max(spread.shares, default=0.0) * len(spread.shares) / spread.upper if spread.upper > 0 else 0.0


def _outline(spread: Spread, end: float, peak: float) -> str:
    """The bars of a spread as one closed path."""
    bins = len(spread.shares)
    width = _INNER * spread.upper / end / bins
    moves = [f"M{_LEFT:.0f} {_BASE:.0f}"]
    for index, share in enumerate(spread.shares):
        y = _BASE - _TALL * share * bins / spread.upper / peak
        moves.append(f"V{y:.1f}H{_LEFT + width * (index + 1):.1f}")
    return "".join([*moves, f"V{_BASE:.0f}z"])


def _over(spread: Spread) -> str:
    rest = max(0.0, spread.density - sum(spread.shares))
    return f"{spread.density:.2%} not zero; {rest:.2%} over {spread.upper:.4g}"


def _zeros(one: Magnitudes) -> list[str]:
    """The frame of the bar of zeros, all zeros, and those that were there before."""
    own = one.before or one.after
    shares = [("dropped", one.after, "zero after"), ("nought", own, "zero" if own is one.after else "zero by themselves")]
    parts = [_bar(1.0, "track", "")]
    parts += [_bar(1 - spread.density, css, what) for css, spread, what in shares if spread is not None]
    return parts


def _bar(share: float, css: str, what: str) -> str:
    tall = _TALL * min(max(share, 0.0), 1.0)
    size = f'width="{_ZEROS_WIDTH:.0f}" height="{tall:.1f}"'
    hover = f"<title>{share:.2%} {what}</title>" if what else ""
    return f'<rect x="{_ZEROS:.0f}" y="{_BASE - tall:.1f}" {size} class="{css}">{hover}</rect>'


def _threshold(threshold: tuple[float, float], end: float) -> list[str]:
    """A line, or a band between two where inputs have thresholds of their own; what lies beyond the axis stands at its end."""
    low, high = (_LEFT + _INNER * min(max(value, 0.0) / end, 1.0) if end > 0 else _LEFT for value in threshold)
    first, last = threshold
    hover = f"<title>threshold {first:.6g}{'' if first == last else f' to {last:.6g}'}</title>"
    parts = []
    if high > low:
        size = f'width="{high - low:.1f}" height="{_BASE - _TOP + 4:.0f}"'
        parts.append(f'<rect x="{low:.1f}" y="{_TOP - 4:.0f}" {size} class="band">{hover}</rect>')
    for x in dict.fromkeys((low, high)):
        parts.append(f'<line x1="{x:.1f}" y1="{_TOP - 4:.0f}" x2="{x:.1f}" y2="{_BASE:.0f}" class="bound thin">{hover}</line>')
    return parts
