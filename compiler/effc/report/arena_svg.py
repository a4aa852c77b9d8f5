"""The arena over time: each buffer is a rectangle from the step that writes it to the last that reads it, at its place in the arena.

Where a step writes its result over what it reads last, two rectangles lie one over another in the column of that step: the overlap has
a frame of its own. The step in which most of the arena holds something has a darker column.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from effc.report.model import Block, Memory
from effc.report.svg import document, shortened, text

__all__ = ["draw_arena", "in_use", "overlaps", "unused"]

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 960.0, 330.0, 74.0, 12.0, 22.0, 40.0
_LETTER = 6.6  # width of one


def in_use(memory: Memory) -> list[int]:
    """Bytes of the arena that hold something in each step; bytes that two buffers share count once."""
    found = []
    for step in range(memory.steps):
        alive = sorted((block.offset, block.offset + block.size) for block in memory.blocks if block.first <= step <= block.last)
        total = end = 0
        for start, stop in alive:
            total += max(stop - max(start, end), 0)
            end = max(end, stop)
        found.append(total)
    return found


def overlaps(memory: Memory) -> list[tuple[Block, Block, int, int]]:
    """(operand, result, first byte, end) of each result that lies over what its step reads last."""
    found = []
    for old in memory.blocks:
        for new in memory.blocks:
            start, stop = max(old.offset, new.offset), min(old.offset + old.size, new.offset + new.size)
            if old.first < new.first == old.last and start < stop:
                found.append((old, new, start, stop))
    return found


def unused(memory: Memory) -> list[str]:
    """A sentence on why the arena is larger than what holds something in any step; none where it is not."""
    used = in_use(memory)
    most = max(used, default=0)
    if most >= memory.arena_bytes:
        return []
    text = (
        f"At most {most:,} of the arena's {memory.arena_bytes:,} bytes hold something at a time, in step {used.index(most)}. "
        "A tensor stays where it is for as long as it is needed, at an aligned place, so free bytes lie between some"
    )
    if overlaps(memory):
        text += "; a result that is written over what its step reads begins a little in front of it, and needs room there"
    return [f"{text}."]


def draw_arena(memory: Memory, names: Sequence[str] = ()) -> str:
    """The drawing as inline SVG; steps run to the right, bytes upwards.

    Args:
        memory: the plan.
        names: what each step computes, for its title.
    """
    inner, tall, base = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _BOTTOM - _TOP, _HEIGHT - _BOTTOM
    width, scale = inner / max(memory.steps, 1), tall / max(memory.arena_bytes, 1)
    used = in_use(memory)
    most = max(used, default=0)
    peak = used.index(most) if used else 0
    parts = []
    for quarter in range(5):
        y = base - tall * quarter / 4
        parts.append(f'<line x1="{_LEFT:.0f}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT:.0f}" y2="{y:.1f}" class="grid"/>')
        parts.append(text(_LEFT - 6, y + 4, f"{memory.arena_bytes * quarter / 4000:,.1f} kB", "axis", "end"))
    for step, count in enumerate(used):
        name = f": {names[step]}" if step < len(names) else ""
        title = html.escape(f"step {step}{name}: {count:,} of {memory.arena_bytes:,} bytes hold something")
        x = _LEFT + width * step
        css = "busiest" if step == peak else "column"
        parts.append(f'<rect x="{x:.1f}" y="{_TOP}" width="{width:.1f}" height="{tall:.1f}" class="{css}"><title>{title}</title></rect>')
    for index, block in enumerate(memory.blocks):
        made = names[block.first] if block.first < len(names) else ""
        parts += _block(block, made, index, width, scale)
    for old, new, start, stop in overlaps(memory):
        x, y, height = _LEFT + width * new.first, base - scale * stop, scale * (stop - start)
        title = html.escape(f"{new.name} is written over {old.name}, which step {new.first} reads last: {stop - start:,} bytes of both")
        size = f'width="{max(width - 1, 1):.1f}" height="{max(height, 1):.1f}"'
        parts.append(f'<rect x="{x + 0.5:.1f}" y="{y:.1f}" {size} class="shared"><title>{title}</title></rect>')
    every = max(1, -(-memory.steps // 32))
    for step in range(0, memory.steps, every):
        parts.append(text(_LEFT + width * (step + 0.5), base + 15, str(step), "axis", "middle"))
    parts.append(text(_LEFT + inner / 2, _HEIGHT - 8, "step", "axis", "middle"))
    if used:
        at = min(max(_LEFT + width * (peak + 0.5), _LEFT + 90), _WIDTH - _RIGHT - 90)
        parts.append(text(at, _TOP - 8, f"most in use in step {peak}: {most:,} bytes", "label", "middle"))
    return document(parts, _WIDTH, _HEIGHT, "memory of the arena over the steps", "memory wide")


def _block(block: Block, made: str, index: int, width: float, scale: float) -> list[str]:
    base = _HEIGHT - _BOTTOM
    x, y = _LEFT + width * block.first, base - scale * (block.offset + block.size)
    across, up = max(width * (block.last - block.first + 1) - 1, 1), scale * block.size
    hover = f"{block.name}: {block.size:,} bytes at {block.offset:,}, steps {block.first} to {block.last}{f': {made}' if made else ''}"
    found = [
        f'<rect x="{x + 0.5:.1f}" y="{y:.1f}" width="{across:.1f}" height="{max(up - 0.5, 0.5):.1f}" '
        f'class="block tone{index % 4}"><title>{html.escape(hover)}</title></rect>'
    ]
    letters = int((across - 6) / _LETTER)
    if up >= 14 and letters >= 3:
        # In the last column another buffer may lie over this one: the name stands in the first.
        found.append(text(x + 4, y + min(up / 2 + 4, 13), shortened(block.name, letters), "inside", title=hover))
    return found
