"""Kernels of family `c99` at the positions where something in the window moved: the loops of the small kernels, position after position.

    for every row of the result:
        for every position whose window holds a moved pixel:
            values = what the small kernel of the function computes there
            propagate them where they moved

There is no list and nothing is gathered: the positions are found in the order in which they are computed, and each costs one value a
channel. Loops, order of sums and layout of weights are those of the kernel for whole frames, so results have the same bits and weights
stand in the flash once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from effc.lowering.kernels.code import allocated, choose, floats, integer, load, local, loop, sequence, store
from effc.lowering.kernels.compact_conv import sliding_convolution, sliding_depthwise
from effc.lowering.kernels.compact_function import compact_function
from effc.lowering.kernels.compact_pool import sliding_pool
from effc.lowering.kernels.compact_windows import Taps, Window, at_position, axis_taps, taps
from effc.lowering.kernels.fused import Fused
from effc.lowering.kernels.implementation import Implementation
from effc.lowering.kernels.inlining import inlined
from effc.lowering.kernels.listed_results import Results
from effc.lowering.kernels.moved import apart, clear_row, over
from effc.lowering.kernels.pixel_list import TASKS, Listed, Reach
from effc.targets import Target

__all__ = ["compact_compared", "compact_listed", "compact_map"]

Element = Callable[[Any], Any]  # of a channel


def compact_listed(fused: Fused, fixed: Sequence[bool], what: Listed, results: Results, target: Target) -> Implementation | None:
    """The kernel of a convolution or a pool, with arguments like those of `listed_convolution`; None for another function."""
    values = local(results.channels, "values")

    def result(position: Sequence[Any], value: Any) -> Any:
        return store(values, fused.epilogue().value(position, value), [position[-1]])

    rules = (sliding_depthwise, sliding_convolution, sliding_pool)
    kernel = next((found for rule in rules if (found := rule(fused, fixed, result)) is not None), None)
    if kernel is None:
        return None
    arguments = [one for buffer, one in zip(fused.arguments, kernel.arguments, strict=True) if buffer is not fused.result]
    buffers, first = kernel.setup
    rows = _rows(what, lambda y, x: _propagated(results, values, at_position(kernel, [y, x]), y, x))
    function = compact_function([*arguments, *what.arguments(results.state)], allocated([values, *buffers], [*first, rows]))
    return Implementation(function, f"listed {kernel.family}", kernel.packings)


def compact_map(arguments: Sequence[Any], blocks: Sequence[Any], what: Listed, results: Results, target: Target) -> Implementation:
    """The kernel of a function whose blocks are all functions of a pixel; arguments like those of `listed_convolution`."""
    written, values = {block.buffer: block for block in blocks}, local(results.channels, "values")

    def position(y: Any, x: Any) -> Any:
        def channel(one: Any) -> Any:
            return store(values, inlined(arguments[-1], [integer(0), y, x, one], written, {}), [one])

        return _propagated(results, values, loop(results.channels, channel, name="channel"), y, x)

    function = compact_function([*arguments[:-1], *what.arguments(results.state)], allocated([values], [_rows(what, position)]))
    return Implementation(function, "listed map")


def compact_compared(results: Results) -> Any:
    """The function of `compared`, for the same machines."""
    from tvm import tirx

    moved = results.moved
    new = tirx.decl_buffer((1, moved.height, moved.width, results.channels), "float32", name="new")

    def row(y: Any) -> Any:
        def pixel(x: Any) -> Any:
            return _kept(results, lambda channel: load(new, [0, y, x, channel]), y, x)

        return sequence([clear_row(moved, y), store(moved.rows, integer(0), [y]), loop(moved.width, pixel, name="x")])

    return compact_function([new, results.state, moved.mask, moved.rows], loop(moved.height, row, name="y"))


def _rows(what: Listed, position: Callable[[Any, Any], Any]) -> Any:
    """The statement that runs `position(y, x)` wherever something in the window moved, and notes the moved pixels of the result."""
    from tvm import tirx

    active, some = local(1, "computed", "int32"), local(1, "some", "int32")
    nothing = tirx.Evaluate(integer(0))
    windows = [_window(what, reach) for reach in what.reaches]

    def in_row(reach: Reach, across: Taps, down: Taps) -> Any:
        """Add what of the mask lies in the window."""

        def line(found: list[Any], places: list[Any]) -> Any:
            def pixel(_: list[Any], columns: list[Any]) -> Any:
                mark = tirx.Cast("int32", load(reach.moved.mask, [places[0], columns[0]]))
                return store(some, load(some, [0]) + mark, [0])

            # A row of a mask says something only where pixels of it moved.
            return choose(load(reach.moved.rows, [places[0]]) != 0, taps([across], pixel), nothing)

        return taps([down], line)

    def counted(reach: Reach, down: Taps) -> Any:
        return taps([down], lambda found, places: store(some, load(some, [0]) + load(reach.moved.rows, [places[0]]), [0]))

    def row(y: Any) -> Any:
        down, held, setting = _each(windows, 0, y)

        def at(x: Any) -> Any:
            across, columns, also = _each(windows, 1, x)
            looked = [in_row(reach, one, other) for reach, one, other in zip(what.reaches, across, down, strict=True)]
            computed = sequence([store(active, load(active, [0]) + 1, [0]), position(y, x)])
            return allocated(columns, [*also, store(some, integer(0), [0]), *looked, choose(load(some, [0]) != 0, computed, nothing)])

        cost = [counted(reach, one) for reach, one in zip(what.reaches, down, strict=True)]
        whole = sequence([clear_row(what.result, y), loop(what.width, at, name="x")])
        clear = [store(what.result.rows, integer(0), [y]), store(some, integer(0), [0])]
        return allocated(held, [*setting, *clear, *cost, choose(load(some, [0]) != 0, whole, nothing)])

    others = loop(TASKS - 1, lambda task: store(what.active, integer(0), [task + 1]))
    ends = [store(what.active, load(active, [0]), [0]), others]
    return allocated([active, some], [store(active, integer(0), [0]), loop(what.height, row, name="y"), *ends])


def _window(what: Listed, reach: Reach) -> Window:
    sizes, positions = (reach.moved.height, reach.moved.width), (what.height, what.width)
    return Window(1, sizes, positions, reach.window, reach.strides, reach.dilation, reach.before)


def _each(windows: Sequence[Window], axis: int, position: Any) -> tuple[list[Taps], list[Any], list[Any]]:
    """The taps of each window along an axis at a position; buffers and statements for them."""
    found, buffers, statements = [], [], []
    for window in windows:
        one, held, setting = axis_taps(window, axis, position)
        found.append(one)
        buffers += held
        statements += setting
    return found, buffers, statements


def _propagated(results: Results, values: Any, computed: Any, y: Any, x: Any) -> Any:
    """The statement that computes the values of a position, and keeps them where they moved."""
    return sequence([computed, _kept(results, lambda channel: load(values, [channel]), y, x)])


def _kept(results: Results, new: Element, y: Any, x: Any) -> Any:
    """The statement that stores the channels of a position if it moved, and notes whether it did. The same sum as `moved.any_moved`."""
    from tvm import tirx

    exact, moved = results.threshold == 0, results.moved
    distance = local(1, "distance", "int32" if exact else "float32")

    def place(channel: Any) -> list[Any]:
        return [integer(0), y, x, channel]

    def add(channel: Any) -> Any:
        one = apart(new(channel), load(results.state, place(channel)), 1, results.threshold)
        return store(distance, load(distance, [0]) + (tirx.Cast("int32", one) if exact else one), [0])

    found = load(distance, [0]) != 0 if exact else over(load(distance, [0]), 1, results.channels, results.threshold)
    kept = [loop(results.channels, lambda channel: store(results.state, new(channel), place(channel)), name="channel")]
    kept += [store(moved.mask, tirx.const(1, "uint8"), [y, x]), store(moved.rows, load(moved.rows, [y]) + 1, [y])]
    return allocated(
        [distance],
        [
            store(distance, integer(0) if exact else floats(0.0), [0]),
            loop(results.channels, add, name="channel"),
            choose(found, sequence(kept), tirx.Evaluate(integer(0))),
        ],
    )
