"""The picture of docs/accelerators.md: cycles and energy of networks on accelerators, a bar for each way to run them."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["draw"]

_WIDTH, _BAR, _ROW = 960, 10, 15
_PANELS = (("cycles", "cycles", 370.0, 600.0), ("energy µJ", "energy, µJ", 690.0, 900.0))
_STYLE = """\
text { font: 12px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; fill: #1d2127; } .muted { fill: #667080; font-size: 11px; }
.title { font-weight: 600; font-size: 13px; } .ground { fill: #ffffff; }
.dense { fill: #b4bcc8; } .zeros { fill: #7fa8d8; } .delta { fill: #86bfa0; }
@media (prefers-color-scheme: dark) { text { fill: #e6e9ee; } .muted { fill: #98a2b0; } .ground { fill: #14171b; }
.dense { fill: #5b6575; } .zeros { fill: #4a78ad; } .delta { fill: #4b8a69; } }
"""


def draw(rows: Sequence[Mapping[str, Any]]) -> str:
    """A drawing of its own from the rows of `accelerator_networks.TABLE`, but for those without energy: what no machine could undercut."""
    parts: list[str] = []
    y = 16.0
    for network in dict.fromkeys(row["network"] for row in rows):
        members = [row for row in rows if row["network"] == network and "energy µJ" in row]
        most = {key: max(float(row[key]) for row in members) for key, *_ in _PANELS}
        parts.append(f'<text x="12" y="{y:.0f}" class="title">{html.escape(network)}</text>')
        parts += [f'<text x="{left:.0f}" y="{y:.0f}" class="muted">{title}</text>' for _, title, left, _ in _PANELS]
        y += 8
        machine = ""
        for row in members:
            if row["machine"] != machine:
                machine = row["machine"]
                y += 15
                parts.append(f'<text x="12" y="{y:.0f}" class="muted">{html.escape(machine)}</text>')
                y += 5
            parts.append(f'<text x="{_PANELS[0][2] - 8:.0f}" y="{y + 9:.0f}" text-anchor="end">{html.escape(_label(row))}</text>')
            for key, _, left, right in _PANELS:
                long = max((right - left) * float(row[key]) / most[key], 1)
                parts.append(f'<rect x="{left:.0f}" y="{y:.0f}" width="{long:.1f}" height="{_BAR}" class="{_colour(row["mode"])}"/>')
                parts.append(f'<text x="{left + long + 5:.1f}" y="{y + 9:.0f}" class="muted">{float(row[key]):,.0f}</text>')
            y += _ROW
        y += 28
    label = "cycles and energy of two networks on accelerators, dense, without zeros, and without what did not change"
    frame = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y:.0f}" width="{_WIDTH}" height="{y:.0f}" role="img"'
    ground = f'<rect width="{_WIDTH}" height="{y:.0f}" class="ground"/>'
    return f'{frame} aria-label="{label}">\n<style>\n{_STYLE}</style>\n{ground}\n' + "\n".join(parts) + "\n</svg>\n"


def _label(row: Mapping[str, Any]) -> str:
    return f"{row['mode']}{', error ' + row['error'] if row.get('error') else ''}"


def _colour(mode: str) -> str:
    return "dense" if mode == "dense" else "zeros" if mode.startswith("zero") else "delta"
