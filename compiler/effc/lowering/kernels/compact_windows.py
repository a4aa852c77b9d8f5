"""The loops of small kernels that slide windows over channels-last images: plain, rolled, and short in code.

For machines with kilobytes of flash and no vectors. At the edge of an image the taps that lie inside are counted for every position, so
that no part of the code stands there twice. A few channels are summed at a time, in variables of their own; what is done with the sums is
one loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from effc.lowering.kernels.code import allocated, integer, load, local, loop, sequence, store
from effc.lowering.kernels.compact_function import compact_function
from effc.lowering.kernels.implementation import Implementation
from effc.lowering.kernels.packing import Packed

__all__ = [
    "Result",
    "Sliding",
    "Taps",
    "Window",
    "at_position",
    "axis_taps",
    "everywhere",
    "number",
    "positions",
    "steps",
    "stored_sums",
    "taps",
]

Result = Callable[[Sequence[Any], Any], Any]  # the statement for (index of an element of a result, its sum)

_TURN = {"int32": 4, "float32": 2}  # steps of a sum in one turn of its loop: eight bytes of code a product each


@dataclass(frozen=True)
class Window:
    """Where windows lie. All of one length: entries by spatial axis.

    Attributes:
        batch: images.
        sizes, positions: of the image, and of the result.
        taps: of the window.
        strides, dilation: steps from window to window, from tap to tap.
        before: padding in front.
    """

    batch: int
    sizes: tuple[int, ...]
    positions: tuple[int, ...]
    taps: tuple[int, ...]
    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    before: tuple[int, ...]


@dataclass(frozen=True)
class Taps:
    """The taps of one axis that lie inside of the image at a position: `count` from `first` on; `start` is the place of tap 0."""

    first: Any
    count: Any
    start: Any
    step: int

    def place(self, tap: Any) -> Any:
        return self.start + tap * self.step


@dataclass(frozen=True)
class Sliding:
    """What a kernel computes for each position of a window, before its loops over the positions are written.

    Attributes:
        window: where the windows lie.
        position: the statement for (image, place of the result, taps by axis).
        arguments: of the kernel: those of its function, stored weights in the layout of `packings`.
        packings: as an `Implementation` has them.
        family: of the kernel.
        setup: buffers, and statements that must run first.
    """

    window: Window
    position: Callable[[Any, list[Any], list[Taps]], Any]
    arguments: list[Any]
    packings: Mapping[int, Packed]
    family: str
    setup: tuple[list[Any], list[Any]] = ([], [])


def steps(length: int, dtype: str, times: Any, body: Callable[[Any], Any], name: str) -> Any:
    """`body(i)` for every i below `length * times`, in turns of a few where the length allows it: a turn costs three instructions.

    Args:
        length: known now. times: may be an expression.
    """
    turn = next(size for size in (_TURN[dtype], 2, 1) if length % size == 0)
    return loop(times * (length // turn), lambda i: sequence([body(i * turn + one) for one in range(turn)]), name=name)


def number(value: Any, name: str) -> tuple[Any, list[Any], list[Any]]:
    """(the value as a variable, its buffer, the statement that sets it); an integer that is known stays one."""
    if isinstance(value, int):
        return value, [], []
    held = local(1, name, "int32")
    return load(held, [0]), [held], [store(held, value, [0])]


def positions(window: Window, body: Callable[[Any, list[Any], list[Taps]], Any]) -> Any:
    """A loop over all images and positions: `body(image, places of the result, taps by axis)`."""

    def axis_loop(image: Any, at: list[Any], found: list[Taps]) -> Any:
        axis = len(at)
        if axis == len(window.sizes):
            return body(image, at, found)

        def one(position: Any) -> Any:
            inside, buffers, statements = axis_taps(window, axis, position)
            return allocated(buffers, [*statements, axis_loop(image, [*at, position], [*found, inside])])

        return loop(window.positions[axis], one, name="x" if axis == len(window.sizes) - 1 else "y")

    return loop(window.batch, lambda image: axis_loop(image, [], []), name="image")


def everywhere(kernel: Sliding | None) -> Implementation | None:
    """The kernel that computes all positions; None of none."""
    if kernel is None:
        return None
    buffers, first = kernel.setup
    body = allocated(buffers, [*first, positions(kernel.window, kernel.position)])
    return Implementation(compact_function(kernel.arguments, body), kernel.family, kernel.packings)


def at_position(kernel: Sliding, at: list[Any]) -> Any:
    """The statement that computes one position, given by variables, of the first image; `setup` must have run."""
    buffers: list[Any] = []
    statements: list[Any] = []
    found: list[Taps] = []
    for axis, position in enumerate(at):
        inside, held, setting = axis_taps(kernel.window, axis, position)
        buffers, statements, found = [*buffers, *held], [*statements, *setting], [*found, inside]
    return allocated(buffers, [*statements, kernel.position(integer(0), at, found)])


def axis_taps(window: Window, axis: int, position: Any) -> tuple[Taps, list[Any], list[Any]]:
    """The taps of an axis that lie inside of the image at a position, and what must run to know them."""
    from tvm import tirx

    size, count, before = window.sizes[axis], window.taps[axis], window.before[axis]
    step, begin = window.dilation[axis], position * window.strides[axis]
    last = (window.positions[axis] - 1) * window.strides[axis] - before + (count - 1) * step
    first: Any = 0
    buffers: list[Any] = []
    statements: list[Any] = []
    if before > 0:  # nothing negative is divided: TVM would simplify that wrongly
        first, held, setting = number((tirx.max(before - begin, 0) + (step - 1)) // step, "first")
        buffers, statements = [*buffers, *held], [*statements, *setting]
    inside: Any = count
    if last >= size:
        end = tirx.min(count, (tirx.max(size + before - begin, 0) + (step - 1)) // step)
        inside = tirx.max(end - first, 0)
    elif before > 0:
        inside = tirx.max(count - first, 0)
    inside, held, setting = number(inside, "count")
    return Taps(first, inside, begin - before, step), [*buffers, *held], [*statements, *setting]


def taps(inside: Sequence[Taps], body: Callable[[list[Any], list[Any]], Any]) -> Any:
    """A loop over the taps of some axes: `body(taps, places in the image)`."""

    def axis_loop(found: list[Any], places: list[Any]) -> Any:
        if len(found) == len(inside):
            return body(found, places)
        axis = inside[len(found)]
        return loop(axis.count, lambda at: axis_loop([*found, axis.first + at], [*places, axis.place(axis.first + at)]), name="tap")

    return axis_loop([], [])


def stored_sums(
    channel: Any, tile: int, count: Any, dtype: str, start: Any, accumulate: Callable[[list[Any]], Any], result: Callable[[Any, Any], Any]
) -> Any:
    """A few sums, and what is done with each.

    Args:
        channel: of the first.
        tile: how many. count: how many of them are results (others are of channels that do not exist).
        dtype, start: of the sums.
        accumulate: the statement that adds everything to the sums, given their buffers of one element.
        result: the statement for (channel, sum).
    """
    sums = [local(1, f"sum{i}", dtype) for i in range(tile)]
    clear = [store(one, start, [0]) for one in sums]
    if tile == 1:
        return allocated(sums, [*clear, accumulate(sums), result(channel, load(sums[0], [0]))])
    # One piece of code for all of them: an epilogue is longer than a copy.
    row = local(tile, "row", dtype)
    copies = [store(row, load(one, [0]), [i]) for i, one in enumerate(sums)]
    results = loop(count, lambda i: result(channel + i, load(row, [i])), name="channel")
    return allocated([*sums, row], [*clear, accumulate(sums), sequence(copies), results])
