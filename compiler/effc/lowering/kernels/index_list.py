"""What products that skip share: the rows of the left operand kept in memory, and the list of places where something is not zero."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from effc.lowering.kernels.code import allocated, integer, load, local, loop, sequence, store, vector
from effc.lowering.kernels.fused import Fused
from effc.lowering.kernels.products import vectors

__all__ = ["index_list", "kept_rows", "row_places"]

_MAGNITUDE = 0x7FFFFFFF


def row_places(outer: Sequence[int], row: int) -> list[Any]:
    """The index of a row, counted through all outer axes."""
    found: list[Any] = []
    for size in reversed(outer):
        found.append(integer(row % size))
        row //= size
    return list(reversed(found))


def kept_rows(fused: Fused, left: Any, outer: Sequence[int], values: Any, lanes: int) -> list[Any]:
    """Statements that store the left operand, with whatever is fused in front of it, in `values` (rows, depth)."""
    rows, depth = (int(size) for size in values.shape)
    sizes = [int(size) for size in left.shape[:-1]]

    def element(row: int, first: Any, size: int) -> Any:
        place = row_places(outer, row)
        own = [integer(0) if n == 1 else one for n, one in zip(sizes, place[len(place) - len(sizes) :], strict=True)]
        return vector(size, lambda lane: store(values, fused.value(left, [*own, first + lane]), [row, first + lane]))

    return [one for row in range(rows) for one in vectors(depth, lanes, partial(element, row))]


def index_list(values: Any, indices: Any, count: Any) -> Any:
    """The statement that lists in `indices` the columns of `values` (rows, columns) that are not zero in any row, and counts them.

    It looks at bits: NaN is not zero, whatever a comparison would say.
    """
    from tvm import tirx

    rows, columns = (int(size) for size in values.shape)
    running = local(1, "running", "int32")

    def noted(column: Any) -> Any:
        bits = [tirx.reinterpret("int32", load(values, [row, column])) for row in range(rows)]
        together = bits[0]
        for other in bits[1:]:
            together = tirx.bitwise_or(together, other)
        used = tirx.bitwise_and(together, integer(_MAGNITUDE)) != 0
        more = tirx.Select(used, integer(1), integer(0))
        return sequence([store(indices, column, [load(running, [0])]), store(running, load(running, [0]) + more, [0])])

    begin, end = store(running, integer(0), [0]), store(count, load(running, [0]), [0])
    return allocated([running], [begin, loop(columns, noted, name="column"), end])
