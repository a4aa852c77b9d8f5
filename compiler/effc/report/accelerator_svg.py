"""What each layer costs on an accelerator: cycles to the left, energy to the right, a bar for each mode."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence

from effc.report.accelerator import MODES, AcceleratorLayer, ModeCost, amount
from effc.report.svg import document, shortened, text

__all__ = ["COLOURS", "draw_accelerator"]

COLOURS = {"dense": "track", "zeros": "tone0", "delta": "tone1"}
"""CSS classes of the modes' bars."""

_WIDTH, _BAR, _GAP, _TOP = 960.0, 7.0, 6.0, 40.0
_NAME = 28  # letters
_PANELS = ((220.0, 540.0), (600.0, 900.0))  # left and right of the bars


def draw_accelerator(layers: Sequence[AcceleratorLayer], modes: Sequence[str]) -> str:
    """The drawing as inline SVG, layers downwards. Both axes begin at 0 and end at the largest layer."""
    row = _BAR * len(modes) + _GAP
    base = _TOP + row * len(layers)
    panels: tuple[tuple[str, Callable[[ModeCost], float]], ...] = (
        ("cycles", lambda cost: cost.cycles),
        ("energy, µJ", lambda cost: cost.energy.total / 1e6),
    )
    parts = []
    for index, layer in enumerate(layers):
        parts.append(text(_PANELS[0][0] - 8, _TOP + row * (index + 0.5), shortened(layer.name, _NAME), "label", "end", title=layer.name))
    for (title, value), (left, right) in zip(panels, _PANELS, strict=True):
        most = max((value(cost) for layer in layers for cost in layer.costs.values()), default=0.0) or 1.0
        parts.append(text(left, _TOP - 24, title, "axis"))
        parts.append(text(right, _TOP - 8, amount(most), "axis", "end"))
        parts.append(text(left, _TOP - 8, "0", "axis"))
        parts += [f'<line x1="{x:.0f}" y1="{_TOP - 4:.0f}" x2="{x:.0f}" y2="{base:.0f}" class="grid"/>' for x in (left, right)]
        for index, layer in enumerate(layers):
            for place, mode in enumerate(modes):
                y, number = _TOP + row * index + _BAR * place, value(layer.costs[mode])
                hover = html.escape(f"{layer.name}, {MODES[mode]}: {amount(number)} {title.removeprefix('energy, ')}")
                size = f'width="{max((right - left) * number / most, 0.5):.1f}" height="{_BAR - 1:.0f}"'
                parts.append(f'<rect x="{left:.0f}" y="{y:.1f}" {size} class="{COLOURS[mode]}"><title>{hover}</title></rect>')
    return document(parts, _WIDTH, base + 8, "cycles and energy of each layer, by mode", "wide")
