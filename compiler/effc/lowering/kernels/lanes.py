"""What moves between the lanes of vectors: combining all of them, and transposing a square of them in registers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from effc.lowering.kernels.code import allocated, integer, load, local, sequence, store, vector

__all__ = ["across", "transposed"]


def across(buffer: Any, lanes: int, combine: Callable[[Any, Any], Any]) -> Any:
    """All lanes of a local buffer combined into its first one, half of them with the other half at a time."""

    def folded(half: int) -> Any:
        return vector(half, lambda lane: store(buffer, combine(load(buffer, [lane]), load(buffer, [half + lane])), [lane]))

    return sequence([folded(lanes >> step) for step in range(1, lanes.bit_length())])


def transposed(lanes: int, element: Callable[[int, Any], Any], result: Callable[[int, Any, Any], Any]) -> Any:
    """A square of `lanes` rows: row r of the result holds element r of all rows.

    Interleaving the first half of the rows with the second half, one after another, as often as `lanes` can be halved, transposes.

    Args:
        element: (row, lane) -> a value.
        result: (row, lane, value) -> the statement that stores it.
    """
    rows = [local(lanes, f"row{row}") for row in range(lanes)]
    buffers = list(rows)

    def first(row: int, one: Any) -> Any:
        return vector(lanes, lambda lane: store(one, element(row, lane), [lane]))

    def last(row: int, one: Any) -> Any:
        return vector(lanes, lambda lane: result(row, lane, load(one, [lane])))

    statements = [first(row, one) for row, one in enumerate(rows)]
    halves = lanes
    while halves > 1:
        halves //= 2
        mixed = [local(lanes, f"mixed{row}") for row in range(lanes)]
        for row in range(lanes // 2):
            pair = rows[row], rows[row + lanes // 2]
            for half in range(2):
                order = [which * lanes + half * lanes // 2 + place for place in range(lanes // 2) for which in range(2)]
                statements.append(_whole(mixed[2 * row + half], _shuffled(pair, lanes, order), lanes))
        buffers += mixed
        rows = mixed
    statements += [last(row, one) for row, one in enumerate(rows)]
    return allocated(buffers, statements)


def _shuffled(pair: Sequence[Any], lanes: int, order: Sequence[int]) -> Any:
    """Lanes of two buffers, counted through both."""
    from tvm import tirx

    ramp = tirx.Ramp(integer(0), integer(1), lanes)
    return tirx.Shuffle([tirx.BufferLoad(buffer, [ramp]) for buffer in pair], [integer(place) for place in order])


def _whole(buffer: Any, value: Any, lanes: int) -> Any:
    from tvm import tirx

    return tirx.BufferStore(buffer, value, [tirx.Ramp(integer(0), integer(1), lanes)])
