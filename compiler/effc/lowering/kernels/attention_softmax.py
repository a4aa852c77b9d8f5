"""The softmax inside attention: rows of scores become exp(score - largest), and the factor by which their weighted sum is scaled."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from effc.lowering.kernels.code import allocated, floats, load, local, loop, sequence, store, vector
from effc.lowering.kernels.lanes import across
from effc.lowering.mathematics import exp

__all__ = ["softmax_rows"]


def softmax_rows(
    scores: Any,
    factors: Any,
    place: Callable[[int, Any], list[Any]],
    factor: Callable[[int], list[Any]],
    rows: int,
    vectors: Any,
    lanes: int,
) -> Any:
    """Some rows in place, together, because each step of one waits for the step before.

    Args:
        scores: the buffer of the rows; a row is a number of whole vectors, minus infinity where nothing may be looked at.
        factors: gets one over the sum of each row; of nothing but zeros, one.
        place, factor: for (row, column) and for a row, the place in the two buffers.
        vectors: of a row, a number or an expression.
    """
    from tvm import tirx

    largest, total = ([local(lanes, f"{name}{row}") for row in range(rows)] for name in ("largest", "total"))

    def larger(row: int, number: Any, lane: Any) -> Any:
        score, known = load(scores, place(row, number * lanes + lane)), load(largest[row], [lane])
        return store(largest[row], tirx.Select(score > known, score, known), [lane])

    def raised(number: Any) -> Any:
        values = [local(lanes, f"value{row}") for row in range(rows)]

        def power(row: int, lane: Any) -> Any:
            score = load(scores, place(row, number * lanes + lane))
            return store(values[row], exp(score - load(largest[row], [0])), [lane])

        def add(row: int, lane: Any) -> Any:
            return store(total[row], load(total[row], [lane]) + load(values[row], [lane]), [lane])

        def put(row: int, lane: Any) -> Any:
            return store(scores, load(values[row], [lane]), place(row, number * lanes + lane))

        return allocated(values, [_vector(lanes, step, row) for row in range(rows) for step in (power, add, put)])

    def finite(value: Any) -> Any:
        """Where nothing may be looked at, 0 is subtracted: all weights are 0 then."""
        return tirx.Select(value == floats(-math.inf), floats(0.0), value)

    def inverse(row: int) -> Any:
        sum_ = load(total[row], [0])
        return store(factors, floats(1.0) / tirx.Select(sum_ == floats(0.0), floats(1.0), sum_), factor(row))

    def each(statement: Callable[[int], Any]) -> Any:
        return sequence([statement(row) for row in range(rows)])

    return allocated(
        [*largest, *total],
        [
            each(lambda row: vector(lanes, lambda lane: store(largest[row], floats(-math.inf), [lane]))),
            loop(vectors, lambda number: each(lambda row: vector(lanes, lambda lane: larger(row, number, lane))), name="vector"),
            each(lambda row: across(largest[row], lanes, lambda a, b: tirx.Select(a > b, a, b))),
            each(lambda row: store(largest[row], finite(load(largest[row], [0])), [0])),
            each(lambda row: vector(lanes, lambda lane: store(total[row], floats(0.0), [lane]))),
            loop(vectors, raised, name="vector"),
            each(lambda row: across(total[row], lanes, lambda a, b: a + b)),
            each(inverse),
        ],
    )


def _vector(lanes: int, step: Callable[[int, Any], Any], row: int) -> Any:
    return vector(lanes, lambda lane: step(row, lane))
