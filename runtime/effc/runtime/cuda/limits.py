"""What a launch may be at most on every GPU that effc compiles for."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["refused"]

_GRID = (2**31 - 1, 65_535, 65_535)
_BLOCK = (1024, 1024, 64)
_THREADS = 1024


def refused(grid: Sequence[int], block: Sequence[int]) -> str:
    """Why no GPU starts this; empty where all do."""
    if not all((*grid, *block)):
        return "has no blocks or no threads"
    if math.prod(block) > _THREADS:
        return f"has blocks of {math.prod(block)} threads; {_THREADS} are the most"
    for what, sizes, most in (("blocks", grid, _GRID), ("threads of a block", block, _BLOCK)):
        for axis, size, limit in zip("xyz", sizes, most, strict=True):
            if size > limit:
                return f"has {size} {what} in {axis}; {limit} are the most"
    return ""
