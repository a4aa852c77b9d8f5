"""The critical share by layer and bit: a row a layer in the network's order, a column a bit from the sign down.

Colours are steps of a power of ten, because shares go from a millionth to a half and bit 30 alone would be seen on an even scale.
"""

from __future__ import annotations

from collections.abc import Sequence

from effc.faultsim.reports.texts import hover, visible, with_interval
from effc.faultsim.summary import Cell
from effc.report.svg import document, shortened, text

__all__ = ["STEPS", "draw_heat", "step_of"]

STEPS = (
    (0.0, "none seen"),
    (1e-4, "under 0.01 %"),
    (1e-3, "0.01 to 0.1 %"),
    (1e-2, "0.1 to 1 %"),
    (1e-1, "1 to 10 %"),
    (1.0, "above 10 %"),
)
_WIDTH, _LEFT, _TOP, _ROW, _FOOT = 556.0, 132.0, 22.0, 17.0, 20.0
_WIDEST = 30.0
_NAME = 20  # characters of a layer's name
HATCH = (
    '<pattern id="hatch" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<line x1="0" y1="0" x2="0" y2="5" class="hatch"/></pattern>'
)


def step_of(share: float) -> int:
    """Which of STEPS a share belongs to."""
    return next((index for index, (limit, _) in enumerate(STEPS) if share <= limit), len(STEPS) - 1)


def draw_heat(cells: Sequence[Cell], layers: Sequence[str]) -> str:
    """The drawing as inline SVG.

    Args:
        cells: places with both a layer and a bit. Those without an injection are hatched; bits that a layer does not have are left blank.
        layers: rows, in order; cells of other layers are not drawn.
    """
    rows = {layer: index for index, layer in enumerate(layers)}
    drawn = [(cell, cell.layer, cell.bit) for cell in cells if cell.layer in rows and cell.layer is not None and cell.bit is not None]
    bits = sorted({bit for _, _, bit in drawn}, reverse=True)
    if not drawn:
        return ""
    columns = {bit: index for index, bit in enumerate(bits)}
    wide = min((_WIDTH - _LEFT - 9) / len(bits), _WIDEST)
    height = _TOP + _ROW * len(rows) + _FOOT
    parts = [f"<defs>{HATCH}</defs>"]
    every = 1 if wide >= 16 else 4
    for bit, column in columns.items():
        if bit % every == 0 or (column == 0 and bit % every > 1):
            parts.append(text(_LEFT + wide * (column + 0.5), _TOP - 7, str(bit), "axis tiny", "middle"))
    for layer, row in rows.items():
        parts.append(text(_LEFT - 7, _TOP + _ROW * row + 12, shortened(layer, _NAME), "axis", "end", visible(layer)))
    for cell, layer, bit in drawn:
        x, y = _LEFT + wide * columns[bit], _TOP + _ROW * rows[layer]
        css = f"heat{step_of(cell.critical.value)}" if cell.injections else "unseen"
        words = hover(_words(cell))
        parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{wide - 1:.1f}" height="{_ROW - 1:.0f}" class="{css}">{words}</rect>')
    parts.append(text(_LEFT + wide * len(bits) / 2, height - 5, "bit; 0 is the least significant one", "axis", "middle"))
    return document(parts, _WIDTH, height, "critical share by layer and bit", "wide")


def _words(cell: Cell) -> str:
    if not cell.injections:
        return f"{cell.layer}, bit {cell.bit}: no injection, {cell.population:,} bits"
    return f"{cell.layer}, bit {cell.bit}: {with_interval(cell.critical)} critical, {cell.injections:,} injections"
