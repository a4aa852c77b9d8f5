"""Vectors written as such, for what no loop over lanes can say: operands of instructions, elements of another type, interleaved rows.

A vector of one element is a scalar.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from effc.lowering.kernels.code import integer, load
from effc.lowering.kernels.fused import Fused
from effc.lowering.kernels.inlining import NotInlinableError

__all__ = ["cast", "centred_bytes", "only", "places", "spread", "vector_load", "vector_store", "whole", "whole_store"]


def vector_load(buffer: Any, indices: Sequence[Any], width: int) -> Any:
    """`width` elements that lie side by side, from these indices on."""
    return load(buffer, [*indices[:-1], _ramp(indices[-1], width)])


def vector_store(buffer: Any, value: Any, indices: Sequence[Any], width: int) -> Any:
    from tvm import tirx

    return tirx.BufferStore(buffer, value, [*indices[:-1], _ramp(indices[-1], width)])


def whole(buffer: Any) -> Any:
    """All elements of a local buffer."""
    return vector_load(buffer, [0], int(buffer.shape[0]))


def whole_store(buffer: Any, value: Any) -> Any:
    return vector_store(buffer, value, [0], int(buffer.shape[0]))


def spread(value: Any, width: int) -> Any:
    """A number in all lanes."""
    from tvm import tirx

    return value if width == 1 else tirx.Broadcast(value, width)


def cast(value: Any, dtype: str, width: int) -> Any:
    from tvm import tirx

    return tirx.Cast(dtype if width == 1 else f"{dtype}x{width}", value)


def only(buffer: Any) -> Any:
    """The element of a buffer of one."""
    return load(buffer, [0] * len(buffer.shape))


def places(number: Any, sizes: Sequence[int]) -> list[Any]:
    """The index along axes of given sizes of what is counted through all of them."""
    found = []
    for size in reversed(sizes):
        found.append(number % size)
        number = number // size
    return list(reversed(found))


def centred_bytes(fused: Fused, buffer: Any) -> tuple[Any, Any]:
    """(bytes, their zero point) of a centred operand, padded or not. Raises NotInlinableError where the function computes them."""
    block = fused.source(buffer)
    if block is not None and "effc.pad" in block.annotations:
        (buffer,) = fused.reads(block)
        block = fused.source(buffer)
    if block is None or "effc.centred" not in block.annotations:
        raise NotInlinableError("an operand that the function computes")
    values, zero = fused.reads(block)
    if fused.argument(values) is None or fused.argument(zero) is None:
        raise NotInlinableError("bytes that the function computes")
    return values, zero


def _ramp(place: Any, width: int) -> Any:
    from tvm import tirx

    place = integer(place) if isinstance(place, int) else place
    return place if width == 1 else tirx.Ramp(place, 1, width)
