"""The few SVG pieces that the drawings share. Colours are CSS classes of the page, so one drawing serves light and dark."""

from __future__ import annotations

import html

__all__ = ["document", "shortened", "text"]


def text(x: float, y: float, content: str, css: str = "", anchor: str = "start", title: str = "") -> str:
    """A line of text; what comes from a model is escaped."""
    hover = f"<title>{html.escape(title)}</title>" if title else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{css}">{html.escape(_visible(content))}{hover}</text>'


def document(parts: list[str], width: float, height: float, label: str, css: str = "") -> str:
    """A whole drawing with its own size in pixels, which the page may shrink (`--wide`); `label` is what a screen reader says."""
    frame = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}"'
    look = f'role="img" aria-label="{html.escape(label)}" class="{css}" style="--wide:{width:.0f}px"'
    return f"{frame} {look}>{''.join(parts)}</svg>"


def shortened(content: str, length: int) -> str:
    """At most `length` characters, the middle left out: both ends of a layer's name tell it from the others."""
    if len(content) <= length:
        return content
    head = (length - 1) // 3
    return f"{content[:head]}…{content[len(content) - (length - 1 - head) :]}"


def _visible(content: str) -> str:
    return "".join(mark if mark.isprintable() else "�" for mark in content)
