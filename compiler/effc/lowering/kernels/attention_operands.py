"""The keys and values of attention as its products read them: blocks of vectors that lie side by side.

Keys are transposed on the way, a square of vectors at a time in registers: a block holds some keys, channel by channel. A block of values
holds some channels, position by position.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from effc.lowering.kernels.code import floats, integer, loop, sequence, vector
from effc.lowering.kernels.lanes import transposed
from effc.lowering.kernels.products import pieces

__all__ = ["keys_by_channel", "values_by_position"]

Element = Callable[[Any, Any], Any]  # of a position and a channel


def keys_by_channel(
    key: Element, start: Any, count: int, positions: int, channels: int, lanes: int, put: Callable[[Any, Any, Any], Any]
) -> Any:
    """A block of keys: `put` stores a value for (channel, key of the block); behind the last key it is repeated.

    Args:
        start, count: the block's first position, and how many there are.
        positions, channels: of all keys.
    """
    from tvm import tirx

    whole = channels // lanes

    def element(at: Any, channel: Any) -> Any:
        position = start + at
        return key(tirx.min(position, integer(positions - 1)) if count % lanes else position, channel)

    def square(at: Any, first: Any) -> Any:
        return transposed(
            lanes,
            lambda row, lane: element(at + row, first + lane),
            lambda row, lane, value: put(first + row, at + lane, value),
        )

    def column(at: Any, channel: Any) -> Any:
        return loop(lanes, lambda lane: put(channel, at + lane, element(at + lane, channel)), name="lane")

    def group(number: Any) -> Any:
        at, rest = number * lanes, channels - whole * lanes
        squares = [loop(whole, lambda part: square(at, part * lanes), name="part")] if whole else []
        columns = [loop(rest, lambda channel: column(at, channel), start=whole * lanes, name="channel")] if rest else []
        return sequence([*squares, *columns])

    return loop(-(-count // lanes), group, name="group")


def values_by_position(
    value: Element, start: Any, count: int, channels: int, block: int, lanes: int, put: Callable[[int, Any, Any, Any], Any]
) -> Any:
    """The values of some positions: `put` stores one for (block, position, channel of the block); behind the last channel there is 0."""

    def of(position: Any, number: int) -> Any:
        width = min(block, channels - number * block)

        def filled(first: int, size: int) -> Any:
            return vector(size, lambda lane: put(number, position, first + lane, value(position, number * block + first + lane)))

        def empty(first: int, size: int) -> Any:
            return vector(size, lambda lane: put(number, position, first + lane, floats(0.0)))

        whole = width // lanes * lanes
        parts = [*((first, lanes) for first in range(0, whole, lanes)), *((whole + first, size) for first, size in pieces(width - whole))]
        ends = [(width + first, size) for first, size in pieces(-width % lanes)]
        unused = [(first, lanes) for first in range(width + -width % lanes, block, lanes)]
        return sequence([*(filled(*part) for part in parts), *(empty(*part) for part in (*ends, *unused))])

    blocks = -(-channels // block)
    return loop(count, lambda at: sequence([of(start + at, number) for number in range(blocks)]), name="position")
