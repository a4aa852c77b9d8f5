"""One tile of a product whose sums stay in registers, inside loops that are not shared with convolutions (see `products`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from effc.lowering.kernels.code import allocated, copied, floats, load, local, loop, sequence, store, vector
from effc.lowering.kernels.products import pieces

__all__ = ["register_tile"]


def register_tile(
    rows: int,
    width: int,
    depth: Any,
    lanes: int,
    left: Callable[[int, Any], Any],
    right: Callable[[Any, Any], Any],
    result: Callable[[int, Any, Any], Any],
    behind: Callable[[int, Any], Any] | None = None,
) -> Any:
    """The statement that computes `sum over depth of left * right` for some rows and columns.

    Args:
        rows, width: of the tile; their vectors and one more must fit into the registers.
        depth: steps of the sums, a number or an expression.
        left: element for (row, step).
        right: element for (step, column); whole vectors are read, columns behind the last one not used.
        result: statement that stores a value for (row, column, value).
        behind: statement for (row, column) of the other lanes of the last vector, which get no result.
    """
    starts = range(0, width, lanes)
    sums = {(row, start): local(lanes, f"sum{row}_{start}") for row in range(rows) for start in starts}

    def step(depth: Any) -> Any:
        def add(row: int, start: int, one: Any) -> Any:
            def of(lane: Any) -> Any:
                return store(one, load(one, [lane]) + left(row, depth) * right(depth, start + lane), [lane])

            return vector(lanes, of)

        return sequence([add(row, start, one) for (row, start), one in sums.items()])

    def stored(row: int, one: Any, at: int, place: int, size: int) -> Any:
        return vector(size, lambda lane: result(row, place + lane, load(one, [at + lane])))

    def empty(row: int, place: int, size: int) -> Any:
        assert behind is not None
        return vector(size, lambda lane: behind(row, place + lane))

    def cleared(one: Any) -> Any:
        return vector(lanes, lambda lane: store(one, floats(0.0), [lane]))

    ends, copies = [], []
    for (row, start), one in sums.items():
        count = min(lanes, width - start)
        if count < lanes:  # registers hold whole vectors: the part that counts is read from a copy
            part = local(lanes, f"part{row}")
            copies.append(part)
            ends.append(copied(one, part, lanes))
            one = part
        ends += [stored(row, one, first, start + first, size) for first, size in pieces(count)]
        if behind is not None:
            ends += [empty(row, start + count + first, size) for first, size in pieces(lanes - count)]
    return allocated([*sums.values(), *copies], [*map(cleared, sums.values()), loop(depth, step, name="depth"), *ends])
