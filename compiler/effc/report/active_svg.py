"""Which part of each layer was computed: a bar a layer, full for those that always compute everything."""

from __future__ import annotations

import html
from collections.abc import Sequence

from effc.report.stream import StreamLayer
from effc.report.svg import document, shortened, text

__all__ = ["draw_active"]

_WIDTH, _ROW, _TOP = 960.0, 17.0, 24.0
_LEFT, _RIGHT = 300.0, 760.0
_NAME = 38  # letters


def draw_active(layers: Sequence[StreamLayer]) -> str:
    """The drawing as inline SVG: layers downwards, the share of output positions that were computed to the right."""
    parts = []
    base = _TOP + _ROW * len(layers)
    for percent in range(0, 101, 20):
        x = _LEFT + (_RIGHT - _LEFT) * percent / 100
        parts.append(f'<line x1="{x:.1f}" y1="{_TOP - 4:.0f}" x2="{x:.1f}" y2="{base:.0f}" class="grid{" zero" if not percent else ""}"/>')
        parts.append(text(x, _TOP - 9, f"{percent}%", "axis", "middle"))
    for index, layer in enumerate(layers):
        y = _TOP + _ROW * index
        share = 1.0 if layer.share is None else min(max(layer.share, 0.0), 1.0)
        what = "always computed whole" if layer.is_dense else f"{share:.1%} of {layer.positions:,} positions"
        hover = html.escape(f"{layer.name}: {layer.ops}, {layer.family}, {what}, {layer.macs:,} MACs")
        size = f'width="{max((_RIGHT - _LEFT) * share, 1):.1f}" height="{_ROW - 5:.0f}"'
        parts.append(text(_LEFT - 8, y + 11, shortened(layer.name, _NAME), "label", "end", title=layer.name))
        parts.append(
            f'<rect x="{_LEFT:.0f}" y="{y + 1:.1f}" {size} class="{"dense" if layer.is_dense else "tone0"}"><title>{hover}</title></rect>'
        )
        parts.append(text(_RIGHT + 8, y + 11, "dense" if layer.is_dense else f"{share:.1%}", "label"))
        parts.append(text(_WIDTH - 8, y + 11, f"{layer.macs:,} MACs", "axis", "end"))
    return document(parts, _WIDTH, base + 8, "share of each layer's positions that were computed", "wide")
