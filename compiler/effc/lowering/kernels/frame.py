"""The first step of a streaming program: what of the frame moved, and whether the frame is computed whole.

    moved[y, x] = the frame is further from what was propagated last than the threshold, as a root mean square over its channels
    clock       = 1 if nothing was seen, or so many frames ago one was computed whole, or too many pixels moved; else clock + 1

Moved pixels are propagated, all of them where the frame is computed whole. The frame is kept twice: in its own layout, to be compared in
vectors of neighbours, and with the channels last, for the kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from effc.lowering.kernels.code import allocated, choose, flat_function, integer, load, local, loop, parallel, prefetch, sequence, store
from effc.lowering.kernels.integer_vectors import cast, spread, vector_load, vector_store, whole, whole_store
from effc.lowering.kernels.moved import Moved, any_moved, apart, clear_row, over, together, vector_pieces
from effc.lowering.kernels.pixel_list import TASKS
from effc.lowering.kernels.products import vectors

__all__ = ["FrameBuffers", "frame_kernel"]

_ROWS = 8  # of a task, at least: to share out less is no gain
_AHEAD = 4  # rows between a request for the memory's data and their use


@dataclass(frozen=True)
class FrameBuffers:
    """What the step reads and writes.

    Attributes:
        frame: float32 (1, C, H, W), or (1, H, W, C) with `last`.
        planes: float32 (1, C, H, W): the frame as it was propagated last; None with `last`.
        state: float32 (1, H, W, C): the same with channels last.
        clock: int32 (1,). active: int32 (TASKS,): moved pixels by task.
        threshold, most_moved, refresh: see `effc::stream_clock`.
        last: whether the frame has its channels last, or only one.
    """

    frame: Any
    planes: Any | None
    state: Any
    moved: Moved
    clock: Any
    active: Any
    threshold: float
    most_moved: int
    refresh: int

    @property
    def last(self) -> bool:
        return self.planes is None

    @property
    def channels(self) -> int:
        return int(self.state.shape[3])


def frame_kernel(buffers: FrameBuffers, lanes: int) -> Any:
    """The function `(frame, [planes,] state, mask, rows, clock, active)`."""
    from tvm import tirx

    moved, total = buffers.moved, local(1, "total", "int32")
    per_task = -(-moved.height // TASKS)

    def rows_of(task: Any, row: Callable[[Any], Any]) -> Any:
        count = tirx.max(tirx.min(integer(per_task), moved.height - task * per_task), 0)
        return loop(count, lambda at: row(task * per_task + at), name="y")

    def compared(task: Any) -> Any:
        tally = local(1, "tally", "int32")

        def row(y: Any) -> Any:
            return sequence([_compared_row(buffers, y, lanes), store(tally, load(tally, [0]) + load(moved.rows, [y]), [0])])

        return allocated([tally], [store(tally, integer(0), [0]), rows_of(task, row), store(buffers.active, load(tally, [0]), [task])])

    spread_out = parallel if moved.height >= _ROWS * TASKS else loop
    clock = load(buffers.clock, [0])
    anew = tirx.Or(clock == 0, load(total, [0]) > buffers.most_moved)
    if buffers.refresh:
        anew = tirx.Or(anew, clock >= buffers.refresh)
    summed = [store(total, integer(0), [0]), loop(TASKS, lambda t: store(total, load(total, [0]) + load(buffers.active, [t]), [0]))]
    fresh = sequence(
        [store(buffers.clock, integer(1), [0]), spread_out(TASKS, lambda task: rows_of(task, lambda y: _copied_row(buffers, y, lanes)))]
    )
    aged = store(buffers.clock, tirx.min(clock, integer(2**31 - 2)) + 1, [0])
    arguments = [buffers.frame, *([] if buffers.planes is None else [buffers.planes]), buffers.state]
    arguments += [moved.mask, moved.rows, buffers.clock, buffers.active]
    return flat_function(arguments, allocated([total], [spread_out(TASKS, compared), *summed, choose(anew, fresh, aged)]))


def _compared_row(buffers: FrameBuffers, y: Any, lanes: int) -> Any:
    """Fill a row of the mask, count, and propagate what moved."""
    from tvm import tirx

    moved, channels = buffers.moved, buffers.channels
    counts = local(lanes, "counts", "int32")
    nothing = tirx.Evaluate(integer(0))

    def counted(marks: Any, x: Any, size: int) -> Any:
        """Note a vector of 0 and 1."""
        mask = vector_store(moved.mask, cast(marks, "uint8", size), [y, x + moved.left], size)
        return sequence([mask, vector_store(counts, vector_load(counts, [0], size) + marks, [0], size)])

    if buffers.planes is None and channels > 1:

        def pixel(x: Any) -> Any:
            def new(first: int, size: int) -> Any:
                return vector_load(buffers.frame, [0, y, x, integer(first)], size)

            def old(first: int, size: int) -> Any:
                return vector_load(buffers.state, [0, y, x, integer(first)], size)

            mark = local(1, "mark", "int32")
            found = store(mark, cast(any_moved(new, old, channels, lanes, buffers.threshold), "int32", 1), [0])
            stored = [
                vector_store(buffers.state, new(first, size), [0, y, x, integer(first)], size)
                for first, size in vector_pieces(channels, lanes)
            ]
            kept = choose(load(mark, [0]) != 0, sequence(stored), nothing)
            return allocated([mark], [found, kept, counted(load(mark, [0]), x, 1)])

        marked = [loop(moved.width, pixel, name="x")]
    else:

        def stretch(x: Any, size: int) -> Any:
            """Neighbouring pixels, a vector of each channel."""
            marks, any_ = local(size, "marks", "int32"), local(1, "any", "int32")
            ahead = tirx.min(y + _AHEAD, integer(moved.height - 1))
            asked = [prefetch(element) for channel in range(channels) for element in _elements(buffers, channel, ahead, x)]
            found: Any = None
            for channel in range(channels):
                new, old = (_plane(buffers, kind, channel, y, x, size) for kind in ("frame", "planes"))
                one = apart(new, old, size, buffers.threshold)
                found = one if found is None else together(found, one, buffers.threshold)
            some = whole(marks) if size == 1 else tirx.call_llvm_pure_intrin("int32", f"llvm.vector.reduce.or.v{size}i32", whole(marks))

            def value(channel: int) -> Any:
                new, old = (_plane(buffers, kind, channel, y, x, size) for kind in ("frame", "planes"))
                return tirx.Select(whole(marks) != spread(integer(0), size), new, old)

            return allocated(
                [marks, any_],
                [
                    *(asked if size == lanes else []),
                    whole_store(marks, cast(over(found, size, channels, buffers.threshold), "int32", size)),
                    counted(whole(marks), x, size),
                    store(any_, some, [0]),
                    choose(load(any_, [0]) != 0, _propagated(buffers, y, x, size, value), nothing),
                ],
            )

        marked = vectors(moved.width, lanes, stretch)
    clear = whole_store(counts, spread(integer(0), lanes))
    summed = whole(counts) if lanes == 1 else tirx.call_llvm_pure_intrin("int32", f"llvm.vector.reduce.add.v{lanes}i32", whole(counts))
    return allocated([counts], [clear, clear_row(moved, y), *marked, store(moved.rows, summed, [y])])


def _propagated(buffers: FrameBuffers, y: Any, x: Any, size: int, value: Callable[[int], Any]) -> Any:
    """Store neighbouring pixels, given the vector of each channel, in both layouts."""
    channels = buffers.channels
    rows = [local(size, f"row{channel}") for channel in range(channels)]
    parts = [whole_store(one, value(channel)) for channel, one in enumerate(rows)]
    if buffers.planes is not None:
        parts += [vector_store(buffers.planes, whole(one), [0, channel, y, x], size) for channel, one in enumerate(rows)]
    for number in range(channels):  # vectors of the row with its channels last
        joined = _interleaved([whole(one) for one in rows], number, size)
        parts.append(vector_store(buffers.state, joined, [0, y, x, integer(number * size)], size))
    return allocated(rows, parts)


def _elements(buffers: FrameBuffers, channel: int, y: Any, x: Any) -> list[Any]:
    """A pixel's element of a channel, in the frame and in what was propagated last."""
    if buffers.planes is None:
        return [load(one, [0, y, x, 0]) for one in (buffers.frame, buffers.state)]
    return [load(one, [0, channel, y, x]) for one in (buffers.frame, buffers.planes)]


def _plane(buffers: FrameBuffers, kind: str, channel: int, y: Any, x: Any, size: int) -> Any:
    """Neighbouring pixels of a channel of the frame or of what was propagated last; one channel lies alike in both layouts."""
    if buffers.planes is None:
        return vector_load(buffers.frame if kind == "frame" else buffers.state, [0, y, x, integer(0)], size)
    return vector_load(buffers.frame if kind == "frame" else buffers.planes, [0, channel, y, x], size)


def _copied_row(buffers: FrameBuffers, y: Any, lanes: int) -> Any:
    """Propagate a whole row: what did not move of it, since the rest has been."""
    from tvm import tirx

    moved, channels = buffers.moved, buffers.channels
    if buffers.planes is None and channels > 1:

        def part(at: Any, size: int) -> Any:  # the elements of a row follow each other
            return vector_store(buffers.state, vector_load(buffers.frame, [0, y, 0, at], size), [0, y, 0, at], size)

        return sequence(vectors(moved.width * channels, lanes, part))

    def stretch(x: Any, size: int) -> Any:
        every = local(1, "every", "uint8")
        marks = vector_load(moved.mask, [y, x + moved.left], size)
        done = marks if size == 1 else tirx.call_llvm_pure_intrin("uint8", f"llvm.vector.reduce.and.v{size}i8", marks)
        copied = _propagated(buffers, y, x, size, lambda channel: _plane(buffers, "frame", channel, y, x, size))
        left = choose(load(every, [0]) == tirx.const(0, "uint8"), copied, tirx.Evaluate(integer(0)))
        return allocated([every], [store(every, done, [0]), left])

    return choose(load(moved.rows, [y]) < moved.width, sequence(vectors(moved.width, lanes, stretch)), tirx.Evaluate(integer(0)))


def _interleaved(rows: Sequence[Any], number: int, size: int) -> Any:
    """The vector with that number of `rows[0][0], rows[1][0], ..., rows[0][1], ...`."""
    from tvm import tirx

    channels = len(rows)
    if size == 1:
        return rows[number]
    result = rows[0]
    for channel in range(channels):
        order = []
        for lane in range(size):
            pixel, own = divmod(number * size + lane, channels)
            order.append(integer(size + pixel if own == channel else (pixel if channel == 0 else lane)))
        result = tirx.Shuffle([result, rows[channel]], order)
    return result
