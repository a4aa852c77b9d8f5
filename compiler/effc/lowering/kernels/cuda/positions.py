"""Kernels over the positions of an image that may have moved, on a device: a block of threads takes some neighbouring positions.

    every thread:       looks at the window of one position in the masks of what is read
    together:           list the positions whose window holds a moved pixel, in shared memory, in ascending order
    every thread:       values[entry][channel] of listed positions, in turn
    a warp a position:  propagate it where it moved

It is one launch a layer, and no list in the device's memory: a block whose positions did not move ends behind its look at the masks. A
block counts what it computed in a place of its own, so nothing is added atomically, and results have the same bits in every run.

Masks are as wide as the image (`moved`), and every byte of them is written in every frame; the counts of their rows are not used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from effc.lowering.kernels.code import allocated, flat_function, floats, integer, load, sequence, store
from effc.lowering.kernels.cuda.block import Block, across_warp
from effc.lowering.kernels.cuda.code import WARP, launch, registers, rolled, shared, synchronise, when
from effc.lowering.kernels.listed_results import Results
from effc.lowering.kernels.moved import apart, over
from effc.lowering.kernels.pixel_list import Listed, Reach
from effc.targets import Target

__all__ = ["MOST_CHANNELS", "Entries", "blocks_of_positions", "fits", "kept", "position_kernel", "under"]

_BITS = 16
_MOST_SIZE = (1 << (_BITS - 1)) - 1  # height and width of an image
_MOST_THREADS = 256
_SHARE = 2  # values of a thread, before a block has fewer threads
MOST_CHANNELS = 1024  # of a position: some positions' values fit into shared memory
_MOST, _LEAST = 64, 8  # positions of a block
_VALUES = 8192  # of a block
_ROUNDS = 2  # blocks for each multiprocessor, at least

Value = Callable[[Any, Any], Any]  # (entry or position, channel) -> float32
Result = Callable[[Any, Any, Any, Any], Any]  # (entry, (y, x) of it, channel, value) -> a statement


class Entries:
    """What a block computes: `count` positions, listed in `places` as y * 65536 + x."""

    def __init__(self, places: Any, count: Any) -> None:
        self.places, self.count = places, load(count, [0])

    def at(self, entry: Any) -> tuple[Any, Any]:
        """(y, x) of an entry: masked, so that TVM knows that neither is negative, and divides them without a thought."""
        from tvm import tirx

        place, limit = load(self.places, [entry]), integer(_MOST_SIZE)
        return tirx.bitwise_and(tirx.shift_right(place, integer(_BITS)), limit), tirx.bitwise_and(place, limit)


Computing = Callable[[Block, Entries, Result], Any]


def fits(height: int, width: int, reaches: Sequence[Reach]) -> bool:
    """Whether lists can number the positions."""
    return max(height, width) <= _MOST_SIZE


def blocks_of_positions(height: int, width: int, channels: int, target: Target) -> tuple[int, int]:
    """(blocks, positions of each): enough blocks for all multiprocessors, positions that share what is read of the weights."""
    positions, size = height * width, _MOST
    while size > _LEAST and (size * channels > _VALUES or positions < size * _ROUNDS * max(1, target.cores)):
        size //= 2
    return -(-positions // size), size


def position_kernel(arguments: Sequence[Any], what: Listed | None, results: Results, target: Target, computing: Computing) -> Any:
    """The function `(arguments, masks..., state, mask, rows, active)`; with `what` None `(arguments, state)`, for a whole frame.

    Both compute a position with the same code, so a frame of which only what moved is computed has the bits of one that is computed whole.

    Args:
        arguments: of the kernel for whole frames, without its result.
        what: the positions that must be computed; None: all.
        results: what is kept.
        target: the device.
        computing: the statement that computes the listed positions.
    """
    moved, channels = results.moved, results.channels
    blocks, size = blocks_of_positions(moved.height, moved.width, channels, target)
    threads = _MOST_THREADS
    while threads > _MOST and size * channels < threads * _SHARE:
        threads //= 2
    places = shared((size,), "places", "int32")
    values = shared((size, channels), "values")
    count, before, own = (registers(1, name, "int32") for name in ("count", "before", "own"))

    def into_values(entry: Any, place: tuple[Any, Any], channel: Any, value: Any) -> Any:
        return store(values, value, [entry, channel])

    def into_state(entry: Any, place: tuple[Any, Any], channel: Any, value: Any) -> Any:
        return store(results.state, value, [integer(0), *place, channel])

    def work(at: Sequence[Any], thread: Any) -> Any:
        block, position = Block(threads, thread), at[0] * size + thread
        entries = Entries(places, count)
        inside = _all(thread < size, True if moved.height * moved.width % size == 0 else position < moved.height * moved.width)
        look = store(own, integer(1), [0]) if what is None else _look(what, results, position, own)
        place = position // moved.width * (1 << _BITS) + position % moved.width
        listing = [
            store(own, integer(0), [0]),
            when(inside, look),
            store(count, load(own, [0]), [0]),
            block.placed(count, before),
            when(load(own, [0]) != 0, store(places, place, [load(before, [0])])),
            synchronise(),
        ]
        if what is None:
            return allocated([places, count, before, own], [*listing, computing(block, entries, into_state)])
        computed = [computing(block, entries, into_values), synchronise()]
        computed.append(kept(block, results, entries.count, entries.at, lambda entry, channel: load(values, [entry, channel])))
        counted = when(thread.equal(0), store(what.active, load(count, [0]), [at[0]]))
        buffers = [places, values, count, before, own]
        return allocated(buffers, [*listing, counted, when(load(count, [0]) > 0, sequence(computed))])

    kept_buffers = [results.state] if what is None else what.arguments(results.state)
    return flat_function([*arguments, *kept_buffers], launch((blocks,), threads, work))


def kept(block: Block, results: Results, count: Any, at: Callable[[Any], tuple[Any, Any]], new: Value) -> Any:
    """The statement with which a block's warps compare positions with what was propagated last, and propagate those that moved.

    Args:
        count: of positions; at: (y, x) of one; new: its values.
    """
    from tvm import tirx

    exact, moved, channels = results.threshold == 0, results.moved, results.channels
    distance = registers(1, "distance", "int32" if exact else "float32")

    def position(entry: Any) -> Any:
        y, x = at(entry)

        def each(body: Callable[[Any], Any]) -> Any:
            def part(number: Any) -> Any:
                channel = number * WARP + block.lane
                return body(channel) if channels % WARP == 0 else when(channel < channels, body(channel))

            return rolled(-(-channels // WARP), part)

        def add(channel: Any) -> Any:
            one = apart(new(entry, channel), load(results.state, [0, y, x, channel]), 1, results.threshold)
            more = tirx.bitwise_or(load(distance, [0]), tirx.Cast("int32", one)) if exact else load(distance, [0]) + one
            return store(distance, more, [0])

        together: Callable[[Any, Any], Any] = tirx.bitwise_or if exact else (lambda a, b: a + b)
        found = load(distance, [0]) != 0 if exact else over(load(distance, [0]), 1, channels, results.threshold)
        mark = tirx.Select(found, tirx.const(1, "uint8"), tirx.const(0, "uint8"))
        return sequence(
            [
                store(distance, integer(0) if exact else floats(0.0), [0]),
                each(add),
                across_warp(distance, together),
                when(found, each(lambda channel: store(results.state, new(entry, channel), [0, y, x, channel]))),
                when(block.lane.equal(0), store(moved.mask, mark, [y, x])),
            ]
        )

    def turn(number: Any) -> Any:
        entry = number * block.warps + block.warp
        return when(entry < count, position(entry))

    return allocated([distance], [rolled((count + (block.warps - 1)) // block.warps, turn)])


def under(place: Any, size: int) -> Any:
    """Whether a place lies inside of an axis."""
    from tvm import tirx

    return tirx.And(place >= 0, place < size)


def _look(what: Listed, results: Results, position: Any, own: Any) -> Any:
    """Set `own` where something in the window of a position moved; else its mask says that it did not move."""
    from tvm import tirx

    y, x = position // what.width, position % what.width

    def window(reach: Reach) -> Any:
        def row(tap: Any) -> Any:
            line = y * reach.strides[0] + tap * reach.dilation[0] - reach.before[0]

            def column(other: Any) -> Any:
                place = x * reach.strides[1] + other * reach.dilation[1] - reach.before[1]
                mark = tirx.Cast("int32", load(reach.moved.mask, [line, place]))
                return when(under(place, reach.moved.width), store(own, tirx.bitwise_or(load(own, [0]), mark), [0]))

            return when(under(line, reach.moved.height), rolled(reach.window[1], column))

        return rolled(reach.window[0], row)

    still = when(load(own, [0]).equal(0), store(results.moved.mask, tirx.const(0, "uint8"), [y, x]))
    return sequence([*(window(reach) for reach in what.reaches), still])


def _all(*conditions: Any) -> Any:
    from tvm import tirx

    left = [one for one in conditions if one is not True]
    return tirx.And(*left) if len(left) == 2 else left[0]
