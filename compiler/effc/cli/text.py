"""Text that comes from models: it must not steer the terminal that shows it."""

from __future__ import annotations

__all__ = ["bytes_text", "count_text", "printable"]


def printable(text: str) -> str:
    """The text with control characters (escape sequences, carriage returns) written out; line breaks stay."""
    return "".join(mark if mark.isprintable() or mark == "\n" else f"\\x{ord(mark):02x}" for mark in text)


def bytes_text(count: float) -> str:
    """A number of bytes for people: `66.5 kB`."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def count_text(count: float) -> str:
    """A large count for people: `1.8 G`."""
    for unit in ("", " k", " M"):
        if count < 1000:
            return f"{count:.0f}" if unit == "" else f"{count:.1f}{unit}"
        count /= 1000
    return f"{count:.1f} G"
