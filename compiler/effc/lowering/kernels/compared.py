"""A result that was computed whole is compared with what was propagated last, and propagated where it moved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from effc.lowering.kernels.code import allocated, flat_function, floats, integer, local, loop, parallel, sequence, store
from effc.lowering.kernels.integer_vectors import cast, spread, vector_load, vector_store, whole, whole_store
from effc.lowering.kernels.listed_results import Results, propagated
from effc.lowering.kernels.moved import apart, clear_row, over
from effc.lowering.kernels.pixel_list import TASKS
from effc.lowering.kernels.products import vectors

__all__ = ["compared", "compared_planes"]

_PARALLEL = 1 << 16  # elements; fewer are not worth starting threads


def compared(results: Results, lanes: int) -> Any:
    """The function `(new, state, mask, rows)`; new is float32 (1, height, width, channels)."""
    from tvm import tirx

    moved = results.moved
    shape = (1, moved.height, moved.width, results.channels)
    new = tirx.decl_buffer(shape, "float32", name="new")

    def row(y: Any) -> Any:
        def pixel(x: Any) -> Any:
            return propagated(results, lanes, lambda first, size: vector_load(new, [0, y, x, integer(first)], size), y, x)

        return sequence([clear_row(moved, y), store(moved.rows, integer(0), [y]), loop(moved.width, pixel, name="x")])

    return flat_function([new, results.state, moved.mask, moved.rows], _over_rows(results, row))


def compared_planes(results: Results, lanes: int) -> Any:
    """The same for float32 (1, channels, height, width): neighbouring pixels fill the vectors."""
    from tvm import tirx

    moved, channels = results.moved, results.channels
    new = tirx.decl_buffer((1, channels, moved.height, moved.width), "float32", name="new")

    nothing = integer(0) if results.threshold == 0 else floats(0.0)

    def moved_lanes(distance: Any, size: int) -> Any:
        return distance if results.threshold == 0 else cast(over(distance, size, channels, results.threshold), "int32", size)

    def row(y: Any) -> Any:
        counts = local(lanes, "counts", "int32")

        def stretch(x: Any, size: int) -> Any:
            marks = local(size, "marks", "int32")
            distance = local(size, "distance", "int32" if results.threshold == 0 else "float32")

            def place(channel: Any) -> list[Any]:
                return [integer(0), channel, y, x]

            def noted(channel: Any) -> Any:
                one = apart(
                    vector_load(new, place(channel), size), vector_load(results.state, place(channel), size), size, results.threshold
                )
                if results.threshold == 0:
                    return whole_store(distance, tirx.bitwise_or(whole(distance), cast(one, "int32", size)))
                return whole_store(distance, whole(distance) + one)

            def kept(channel: Any) -> Any:
                own = whole(marks) != spread(integer(0), size)
                value = tirx.Select(own, vector_load(new, place(channel), size), vector_load(results.state, place(channel), size))
                return vector_store(results.state, value, place(channel), size)

            return allocated(
                [marks, distance],
                [
                    whole_store(distance, spread(nothing, size)),
                    loop(channels, noted, name="channel"),
                    whole_store(marks, moved_lanes(whole(distance), size)),
                    vector_store(moved.mask, cast(whole(marks), "uint8", size), [y, x + moved.left], size),
                    vector_store(counts, vector_load(counts, [0], size) + whole(marks), [0], size),
                    loop(channels, kept, name="channel"),
                ],
            )

        total = whole(counts) if lanes == 1 else tirx.call_llvm_pure_intrin("int32", f"llvm.vector.reduce.add.v{lanes}i32", whole(counts))
        clear = [whole_store(counts, spread(integer(0), lanes)), clear_row(moved, y)]
        return allocated([counts], [*clear, *vectors(moved.width, lanes, stretch), store(moved.rows, total, [y])])

    return flat_function([new, results.state, moved.mask, moved.rows], _over_rows(results, row))


def _over_rows(results: Results, row: Callable[[Any], Any]) -> Any:
    """All rows, by several threads where there is enough to do."""
    from tvm import tirx

    moved = results.moved
    per_task = -(-moved.height // TASKS)

    def task(number: Any) -> Any:
        count = tirx.max(tirx.min(integer(per_task), moved.height - number * per_task), 0)
        return loop(count, lambda at: row(number * per_task + at), name="y")

    elements = moved.height * moved.width * results.channels
    return parallel(TASKS, task) if elements >= _PARALLEL else loop(moved.height, row, name="y")
