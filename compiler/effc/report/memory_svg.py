"""The arena over time: each tensor is a bar from the step that writes it to the last that reads it, at its offset."""

from __future__ import annotations

import html

from effc.report.model import Memory
from effc.report.svg import document, text

__all__ = ["draw_memory"]

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 960.0, 240.0, 70.0, 26.0, 8.0


def draw_memory(memory: Memory) -> str:
    """The drawing as inline SVG; steps run to the right, bytes upwards."""
    inner, tall = _WIDTH - _LEFT - 10, _HEIGHT - _BOTTOM - _TOP
    step = inner / max(memory.steps, 1)
    scale = tall / max(memory.arena_bytes, 1)
    base = _HEIGHT - _BOTTOM
    parts = []
    for fraction in (0.0, 0.5, 1.0):
        y = base - tall * fraction
        parts.append(f'<line x1="{_LEFT:.0f}" y1="{y:.1f}" x2="{_WIDTH - 10:.0f}" y2="{y:.1f}" class="grid"/>')
        parts.append(text(_LEFT - 6, y + 4, f"{memory.arena_bytes * fraction / 1000:,.1f} kB", "axis", "end"))
    for index, block in enumerate(memory.blocks):
        x, y = _LEFT + step * block.first, base - scale * (block.offset + block.size)
        width, height = step * (block.last - block.first + 1), scale * block.size
        hover = f"{block.name}: {block.size:,} bytes at {block.offset:,}, steps {block.first} to {block.last}"
        parts.append(
            f'<rect x="{x + 0.5:.1f}" y="{y:.1f}" width="{max(width - 1, 1):.1f}" height="{max(height - 0.5, 0.5):.1f}" '
            f'class="block tone{index % 4}"><title>{html.escape(hover)}</title></rect>'
        )
    every = max(1, -(-memory.steps // 24))
    for index in range(0, memory.steps, every):
        parts.append(text(_LEFT + step * (index + 0.5), _HEIGHT - 8, str(index), "axis", "middle"))
    return document(parts, _WIDTH, _HEIGHT, "memory of the arena over the steps", "memory wide")
