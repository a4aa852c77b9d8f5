"""The first step of a streaming program on a device (`kernels.frame` says what it means), and what compares whole results.

The frame takes three launches: every thread compares a pixel, and propagates it where it moved; one block adds the counts of the others
and sets the clock; every thread copies a pixel if the clock says that the frame is computed whole, else it returns at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from effc.lowering.kernels.code import allocated, choose, flat_function, floats, integer, load, loop, sequence, store
from effc.lowering.kernels.cuda.block import Block
from effc.lowering.kernels.cuda.code import launch, registers, rolled, when
from effc.lowering.kernels.cuda.positions import kept
from effc.lowering.kernels.frame import FrameBuffers
from effc.lowering.kernels.listed_results import Results
from effc.lowering.kernels.moved import apart, over

__all__ = ["compared", "compared_planes", "frame_blocks", "frame_kernel"]

Element = Callable[[Any], Any]  # of a channel
_THREADS = 128
_POSITIONS = 32  # of a block that compares results with their channels last


def frame_blocks(height: int, width: int) -> int:
    """How many blocks look at a frame; each has a counter of moved pixels."""
    return -(-height * width // _THREADS)


def frame_kernel(buffers: FrameBuffers, lanes: int) -> Any:
    """The function `(frame, [planes,] state, mask, rows, clock, active)`."""
    from tvm import tirx

    moved, channels, blocks = buffers.moved, buffers.channels, frame_blocks(buffers.moved.height, buffers.moved.width)
    pixels = moved.height * moved.width
    mark = registers(1, "mark", "int32")

    def frame(y: Any, x: Any, channel: Any) -> Any:
        return load(buffers.frame, [0, y, x, channel] if buffers.last else [0, channel, y, x])

    def stored(y: Any, x: Any) -> Any:
        def one(channel: Any) -> Any:
            both = [store(buffers.state, frame(y, x, channel), [0, y, x, channel])]
            if buffers.planes is not None:
                both.append(store(buffers.planes, frame(y, x, channel), [0, channel, y, x]))
            return sequence(both)

        return loop(channels, one, name="channel")

    def compare(at: Sequence[Any], thread: Any) -> Any:
        block, position = Block(_THREADS, thread), at[0] * _THREADS + thread
        y, x = position // moved.width, position % moved.width

        def old(channel: Any) -> Any:
            return load(buffers.state, [0, y, x, channel]) if buffers.planes is None else load(buffers.planes, [0, channel, y, x])

        looked = sequence(
            [
                _moved(channels, buffers.threshold, lambda channel: frame(y, x, channel), old, mark),
                store(moved.mask, tirx.Cast("uint8", load(mark, [0])), [y, x]),
                when(load(mark, [0]) != 0, stored(y, x)),
            ]
        )
        counted = [
            store(mark, integer(0), [0]),
            when(position < pixels, looked),
            block.reduced(mark, lambda a, b: a + b, integer(0)),
            when(thread.equal(0), store(buffers.active, load(mark, [0]), [at[0]])),
        ]
        return allocated([mark], counted)

    def decide(at: Sequence[Any], thread: Any) -> Any:
        block, total, clock = Block(_THREADS, thread), registers(1, "total", "int32"), load(buffers.clock, [0])
        anew = tirx.Or(clock.equal(0), load(total, [0]) > buffers.most_moved)
        if buffers.refresh:
            anew = tirx.Or(anew, clock >= buffers.refresh)

        def part(number: Any) -> Any:
            place = number * _THREADS + thread
            return when(place < blocks, store(total, load(total, [0]) + load(buffers.active, [place]), [0]))

        older = store(buffers.clock, tirx.min(clock, integer(2**31 - 2)) + 1, [0])
        setting = choose(anew, store(buffers.clock, integer(1), [0]), older)
        reading = rolled(-(-blocks // _THREADS), part)
        return allocated(
            [total],
            [store(total, integer(0), [0]), reading, block.reduced(total, lambda a, b: a + b, integer(0)), when(thread.equal(0), setting)],
        )

    def copy(at: Sequence[Any], thread: Any) -> Any:
        position = at[0] * _THREADS + thread
        wanted = tirx.And(load(buffers.clock, [0]).equal(1), position < pixels)
        return when(wanted, stored(position // moved.width, position % moved.width))

    arguments = [buffers.frame, *([] if buffers.planes is None else [buffers.planes]), buffers.state]
    arguments += [moved.mask, moved.rows, buffers.clock, buffers.active]
    return flat_function(
        arguments, sequence([launch((blocks,), _THREADS, compare), launch((1,), _THREADS, decide), launch((blocks,), _THREADS, copy)])
    )


def compared(results: Results, lanes: int) -> Any:
    """The function `(new, state, mask, rows)`; new is float32 (1, height, width, channels)."""
    from tvm import tirx

    moved = results.moved
    positions = moved.height * moved.width
    new = tirx.decl_buffer((1, moved.height, moved.width, results.channels), "float32", name="new")

    def work(at: Sequence[Any], thread: Any) -> Any:
        first = at[0] * _POSITIONS

        def place(entry: Any) -> tuple[Any, Any]:
            return (first + entry) // moved.width, (first + entry) % moved.width

        def value(entry: Any, channel: Any) -> Any:
            return load(new, [integer(0), *place(entry), channel])

        return kept(Block(_THREADS, thread), results, tirx.min(integer(_POSITIONS), positions - first), place, value)

    return flat_function([new, results.state, moved.mask, moved.rows], launch((-(-positions // _POSITIONS),), _THREADS, work))


def compared_planes(results: Results, lanes: int) -> Any:
    """The same for float32 (1, channels, height, width): a thread takes a pixel."""
    from tvm import tirx

    moved = results.moved
    positions = moved.height * moved.width
    new = tirx.decl_buffer((1, results.channels, moved.height, moved.width), "float32", name="new")
    mark = registers(1, "mark", "int32")

    def work(at: Sequence[Any], thread: Any) -> Any:
        position = at[0] * _THREADS + thread
        y, x = position // moved.width, position % moved.width

        def element(buffer: Any) -> Element:
            return lambda channel: load(buffer, [0, channel, y, x])

        def propagated(channel: Any) -> Any:
            return store(results.state, element(new)(channel), [0, channel, y, x])

        looked = [
            _moved(results.channels, results.threshold, element(new), element(results.state), mark),
            store(moved.mask, tirx.Cast("uint8", load(mark, [0])), [y, x]),
            when(load(mark, [0]) != 0, loop(results.channels, propagated, name="channel")),
        ]
        return when(position < positions, allocated([mark], looked))

    return flat_function([new, results.state, moved.mask, moved.rows], launch((frame_blocks(moved.height, moved.width),), _THREADS, work))


def _moved(channels: int, threshold: float, new: Element, old: Element, mark: Any) -> Any:
    """The statement with which one thread finds out whether a pixel moved: `mark` becomes 1 or 0."""
    from tvm import tirx

    exact = threshold == 0
    distance = registers(1, "distance", "int32" if exact else "float32")

    def add(channel: Any) -> Any:
        one = apart(new(channel), old(channel), 1, threshold)
        more = tirx.bitwise_or(load(distance, [0]), tirx.Cast("int32", one)) if exact else load(distance, [0]) + one
        return store(distance, more, [0])

    found = load(distance, [0]) != 0 if exact else over(load(distance, [0]), 1, channels, threshold)
    return allocated(
        [distance],
        [
            store(distance, integer(0) if exact else floats(0.0), [0]),
            loop(channels, add, name="channel"),
            store(mark, tirx.Select(found, integer(1), integer(0)), [0]),
        ],
    )
