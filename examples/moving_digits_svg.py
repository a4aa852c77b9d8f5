"""The curve of `train_moving_digits` as an SVG file that stands alone, in light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Point", "draw"]

_WIDTH, _HEIGHT = 520, 300
_LEFT, _RIGHT, _TOP, _BASE = 62, 500, 34, 244
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#333}.grid{stroke:#ddd}.line{fill:none;stroke:#1f6feb;stroke-width:2}"
    ".spread{stroke:#1f6feb;opacity:.4}.delta{fill:#1f6feb}.relu{fill:#c2410c}.bar{stroke:#c2410c;stroke-dasharray:4 4}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd}.grid{stroke:#444}.line,.spread{stroke:#6ea8fe}.delta{fill:#6ea8fe}.relu{fill:#fb923c}"
    ".bar{stroke:#fb923c}}"
)


@dataclass(frozen=True)
class Point:
    """A trained network: its sparsity rate (None: ReLU), operations a frame, accuracy, and the accuracies of its seeds."""

    rate: float | None
    operations: float
    accuracy: float
    seeds: Sequence[float]


def draw(points: Sequence[Point]) -> str:
    """Operations a frame to the right, accuracy upwards, the line of one point under the ReLU network dashed."""
    relu = next(point for point in points if point.rate is None)
    most = 1.15 * max(point.operations for point in points)
    seen = [accuracy for point in points for accuracy in point.seeds] + [relu.accuracy - 0.01]
    low, high = math.floor(100 * min(seen)) / 100, math.ceil(100 * max(seen)) / 100

    def x(operations: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * operations / most

    def y(accuracy: float) -> float:
        return _BASE - (_BASE - _TOP) * (accuracy - low) / (high - low)

    parts = [f"<style>{_STYLE}</style>", _text(_LEFT - 50, 18, "top-1 on test videos (%), mean and range of the seeds")]
    for percent in range(round(100 * low), round(100 * high) + 1):
        at = y(percent / 100)
        parts += [
            f'<line class="grid" x1="{_LEFT}" x2="{_RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>',
            _text(_LEFT - 8, at + 4, str(percent), "end"),
        ]
    tick = 50_000 if most < 500_000 else 100_000
    parts += [_text(x(value), _BASE + 18, f"{value // 1000}k", "middle") for value in range(0, int(most) + 1, tick)]
    parts.append(_text((_LEFT + _RIGHT) / 2, _HEIGHT - 14, "synaptic operations a frame; beside each point its sparsity rate", "middle"))
    at = y(relu.accuracy - 0.01)
    parts += [
        f'<line class="bar" x1="{_LEFT}" x2="{_RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>',
        _text(_RIGHT, at - 5, "ReLU less 1 point", "end"),
    ]
    deltas = sorted((point for point in points if point.rate is not None), key=lambda point: point.operations)
    line = " ".join(f"{x(point.operations):.1f},{y(point.accuracy):.1f}" for point in deltas)
    parts.append(f'<polyline class="line" points="{line}"/>')
    for place, point in enumerate(points):
        across, css = x(point.operations), "relu" if point.rate is None else "delta"
        spread = f'x1="{across:.1f}" x2="{across:.1f}" y1="{y(min(point.seeds)):.1f}" y2="{y(max(point.seeds)):.1f}"'
        name = "ReLU" if point.rate is None else f"{point.rate:g}"
        parts += [f'<line class="spread" {spread}/>', f'<circle class="{css}" cx="{across:.1f}" cy="{y(point.accuracy):.1f}" r="4"/>']
        parts.append(_text(across, y(point.accuracy) + (19 if place % 2 == 0 else -10), name, "middle"))  # neighbours on either side
    label = "Accuracy against operations a frame, by sparsity rate"
    frame = f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}"'
    return f'<svg {frame} role="img" aria-label="{label}">{"".join(parts)}</svg>\n'


def _text(x: float, y: float, content: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{content}</text>'
