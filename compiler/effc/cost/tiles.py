"""How many results a microcontroller's kernels sum at a time: what they are written with, and what their instructions are counted by."""

from __future__ import annotations

__all__ = ["STEP", "register_tile"]

STEP = 3  # instructions that load an input and close the loop
_MOST = {"int32": 4, "float32": 8}  # sums at a time: what thirteen registers hold beside addresses and counters, and sixteen of floats


def register_tile(channels: int, dtype: str, whole: bool = False) -> int:
    """How many channels are summed at a time in a type; with `whole` a divisor of all.

    A step of the sum costs one load of the image and the loop, shared by the tile, and one load and one product each.
    """
    sizes = [size for size in range(1, _MOST[dtype] + 1) if not whole or channels % size == 0]
    return min(sizes, key=lambda size: (-(-channels // size) * (2 * size + STEP), -size))
