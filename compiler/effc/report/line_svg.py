"""Numbers over the frames of a stream, as lines; frames that were computed whole have a mark under the axis."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from effc.report.axis import step_over, tick_text, ticks
from effc.report.svg import document, text

__all__ = ["Line", "draw_lines"]

_WIDTH, _HEIGHT = 960.0, 240.0
_LEFT, _RIGHT, _TOP, _BASE = 64.0, 944.0, 28.0, 192.0
_COLUMNS = 440  # of a line: with more frames each column shows the smallest and the largest of its frames
_MOST_MARKS = 400  # marks of whole frames; more would be a bar


@dataclass(frozen=True)
class Line:
    """One line: its name, one value a frame (no mark where it is not finite), its CSS class."""

    name: str
    values: Sequence[float]
    css: str


def draw_lines(lines: Sequence[Line], whole: Sequence[bool], unit: str, label: str, *, top: float | None = None) -> str:
    """The drawing as inline SVG: frames to the right, values upwards from 0.

    Args:
        lines: all of one length.
        whole: the frames to mark.
        unit: what stands above the axis: `ms`, `%`.
        label: what a screen reader says.
        top: the end of the axis; the largest value where None. What is larger stands at the edge.
    """
    count = len(whole)
    finite = [value for line in lines for value in line.values if math.isfinite(value)]
    end = top or max(finite, default=0.0) * 1.05 or 1.0
    step, across = step_over(end / 5), max(count - 1, 1)

    def x(frame: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * frame / across

    def y(value: float) -> float:
        return _BASE - (_BASE - _TOP) * min(max(value, 0.0), end) / end

    parts = []
    for value in ticks(0.0, end, step):
        css = "grid zero" if value == 0 else "grid"
        parts.append(f'<line x1="{_LEFT:.0f}" y1="{y(value):.1f}" x2="{_RIGHT:.0f}" y2="{y(value):.1f}" class="{css}"/>')
        parts.append(text(_LEFT - 7, y(value) + 4, tick_text(value, step), "axis", "end"))
    for frame in ticks(0, count - 1, max(1.0, step_over(across / 10))):
        parts.append(text(x(frame), _BASE + 24, f"{frame:.0f}", "axis", "middle"))
    parts.append(text(8, 14, unit, "axis"))
    parts.append(text((_LEFT + _RIGHT) / 2, _HEIGHT - 4, "frame", "axis", "middle"))
    marked = [frame for frame, is_whole in enumerate(whole) if is_whole]
    for frame in marked[:: math.ceil(len(marked) / _MOST_MARKS) or 1]:
        parts.append(
            f'<path d="M{x(frame) - 3:.1f} {_BASE + 9:.0f}h6l-3 -6z" class="whole"><title>frame {frame}: computed whole</title></path>'
        )
    for line in lines:
        hover = f"<title>{html.escape(line.name)}</title>"
        parts.append(f'<polyline points="{_points(line.values, x, y)}" class="line {line.css}">{hover}</polyline>')
    return document(parts, _WIDTH, _HEIGHT, label, "wide")


def _points(values: Sequence[float], x: Callable[[float], float], y: Callable[[float], float]) -> str:
    """All points, or the extremes of each column; a single one becomes a short dash. Infinity stands at the upper edge, NaN is left out."""
    size = max(1, math.ceil(len(values) / _COLUMNS))
    shown: list[tuple[float, float]] = []
    for start in range(0, len(values), size):
        frames = [frame for frame in range(start, min(start + size, len(values))) if not math.isnan(values[frame])]
        if frames:
            extremes = {min(frames, key=lambda frame: values[frame]), max(frames, key=lambda frame: values[frame])}
            shown += [(x(frame), y(values[frame])) for frame in sorted(extremes)]
    if len(shown) == 1:
        shown.append((shown[0][0] + 4, shown[0][1]))
    return " ".join(f"{across:.1f},{up:.1f}" for across, up in shown)
