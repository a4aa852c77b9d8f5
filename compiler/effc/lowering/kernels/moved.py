"""Which pixels of an image moved since the last frame: the mask that kernels over lists read and write, and the test that fills it.

A mask has a byte for every pixel, 1 where it moved, in rows that are wider than the image: windows that stick out at the sides read zeros
there. For family `c99` rows are as wide as the image, and windows are cut to it. `rows` counts the moved pixels of each row; a row of the
mask is only valid (and only read) where its count is not 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from effc.lowering.kernels.code import integer, loop, sequence, store
from effc.lowering.kernels.integer_vectors import spread, vector_store
from effc.lowering.kernels.products import pieces

__all__ = ["CHUNK", "LEFT", "Moved", "any_moved", "apart", "clear_row", "mask_width", "moved_buffers", "over", "together", "vector_pieces"]

CHUNK = 64  # pixels of a mask that are read at once
LEFT = 16  # bytes in front of a row: how far windows may stick out


def mask_width(width: int, narrow: bool = False) -> int:
    """Bytes of a row: room for windows that stick out, and for whole chunks behind the last pixel; `narrow`: only for the pixels."""
    return width if narrow else LEFT + -(-width // CHUNK) * CHUNK + 2 * CHUNK


@dataclass(frozen=True)
class Moved:
    """The moved pixels of an image of `height` x `width`: `mask` uint8 (height, mask_width), `rows` int32 (height,)."""

    mask: Any
    rows: Any
    height: int
    width: int

    @property
    def left(self) -> int:
        """Bytes of a row of the mask in front of the first pixel."""
        return 0 if int(self.mask.shape[1]) == self.width else LEFT


def moved_buffers(name: str, height: int, width: int, narrow: bool = False) -> Moved:
    from tvm import tirx

    mask = tirx.decl_buffer((height, mask_width(width, narrow)), "uint8", name=f"{name}_mask")
    return Moved(mask, tirx.decl_buffer((height,), "int32", name=f"{name}_rows"), height, width)


def clear_row(moved: Moved, y: Any) -> Any:
    """No pixel of a row moved, and its mask says so."""
    from tvm import tirx

    if moved.left == 0:
        return loop(moved.width, lambda x: store(moved.mask, tirx.const(0, "uint8"), [y, x]), name="x")
    zeros = spread(tirx.const(0, "uint8"), CHUNK)
    width = int(moved.mask.shape[1])
    parts = [vector_store(moved.mask, zeros, [y, first], CHUNK) for first in range(0, width - CHUNK + 1, CHUNK)]
    parts += [
        vector_store(moved.mask, spread(tirx.const(0, "uint8"), size), [y, width // CHUNK * CHUNK + first], size)
        for first, size in pieces(width % CHUNK)
    ]
    return sequence(parts)


def vector_pieces(channels: int, lanes: int) -> list[tuple[int, int]]:
    """(first channel, lanes) of the vectors that hold the channels of a pixel."""
    whole = channels // lanes * lanes
    return [(first, lanes) for first in range(0, whole, lanes)] + [(whole + first, size) for first, size in pieces(channels - whole)]


def any_moved(new: Callable[[int, int], Any], old: Callable[[int, int], Any], channels: int, lanes: int, threshold: float) -> Any:
    """Whether a pixel moved: a bool expression.

    Args:
        new, old: the vector of (first channel, lanes) of the pixel, now and as it was propagated last.
        channels: of the pixel.
        threshold: 0 asks whether any bit differs, else whether the root mean square over the channels of new - old is more (NaN is).
    """
    vectors: dict[int, Any] = {}  # by lanes
    for first, size in vector_pieces(channels, lanes):
        one = apart(new(first, size), old(first, size), size, threshold)
        vectors[size] = one if size not in vectors else together(vectors[size], one, threshold)
    result: Any = None
    for size, value in vectors.items():
        whole = _folded(value, size, threshold)
        result = whole if result is None else together(result, whole, threshold)
    return over(result, 1, channels, threshold)


def apart(new: Any, old: Any, width: int, threshold: float) -> Any:
    """How far two vectors are apart, lane by lane: which bits differ at a threshold of 0, else the square of the difference."""
    from tvm import tirx

    if threshold == 0:
        kind = "int32" if width == 1 else f"int32x{width}"
        return tirx.NE(tirx.reinterpret(kind, new), tirx.reinterpret(kind, old))
    return (new - old) * (new - old)


def together(a: Any, b: Any, threshold: float) -> Any:
    """What is apart in one or the other."""
    from tvm import tirx

    return tirx.Or(a, b) if threshold == 0 else a + b


def over(value: Any, width: int, channels: int, threshold: float) -> Any:
    """Whether pixels moved, given how far their channels are apart together: a bool expression, or a vector of them.

    Sums of squares are compared as integers: their bits stand in the order of the numbers, and those of a NaN, without its sign, above all.
    """
    from tvm import tirx

    if threshold == 0:
        return value
    kind = "int32" if width == 1 else f"int32x{width}"
    magnitude = tirx.bitwise_and(tirx.reinterpret(kind, value), spread(integer(0x7FFFFFFF), width))
    limit = np.float32(threshold * threshold * channels)
    return tirx.GT(magnitude, spread(integer(int(limit.view(np.int32))), width))


def _folded(value: Any, width: int, threshold: float) -> Any:
    """All lanes of a vector together."""
    from tvm import tirx

    if threshold == 0:
        return value if width == 1 else tirx.call_llvm_pure_intrin("bool", f"llvm.vector.reduce.or.v{width}i1", value)
    while width > 1:
        width //= 2
        low, high = ([integer(start + lane) for lane in range(width)] for start in (0, width))
        value = tirx.Shuffle([value], low) + tirx.Shuffle([value], high)
    return value
