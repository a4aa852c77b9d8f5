"""Which positions of an output must be computed because something in their window moved: lists, shared out evenly among threads.

    est[y]   = moved pixels in the rows that output row y reads                 (what its computation costs, about)
    task t   = the rows y with  t/T <= (est[0] + ... + est[y - 1]) / total < (t + 1)/T
    list     = the positions of these rows whose window holds a moved pixel, as y * 65536 + x

Each task finds its own rows, lists their positions and computes them, so a layer starts its threads once, or not at all where there is
little to do. A row costs a few instructions where nothing moved; masks are read 64 pixels at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from effc.lowering.kernels.code import allocated, choose, integer, load, local, loop, parallel, prefetch, sequence, store
from effc.lowering.kernels.integer_vectors import spread, vector_load, whole, whole_store
from effc.lowering.kernels.moved import CHUNK, LEFT, Moved, clear_row
from effc.lowering.kernels.products import PARALLEL_MACS

__all__ = ["AHEAD", "TASKS", "Listed", "Reach", "Work", "ahead", "fits", "listed"]

TASKS = 4  # enough for a few threads; each ends with a tile that is not full
_BITS = 16
AHEAD = 8  # entries between a request and its use
_MOST_AHEAD = 512  # bytes of a line that are asked for; processors go on by themselves
_CACHE_LINE = 64
_FEW = 96  # moved pixels of a task
_POSITION = 600  # multiply-accumulates that would take as long as listing, comparing and storing a position does


@dataclass(frozen=True)
class Reach:
    """Pixels of an input that positions of the output read: `position * stride + tap * dilation - before` along each axis."""

    moved: Moved
    window: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    before: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Work:
    """What a task computes: entries `[first, first + count)` of `places`; `task` numbers it among TASKS."""

    places: Any
    first: Any
    count: Any
    task: Any

    def at(self, number: Any) -> tuple[Any, Any]:
        """(y, x) of an entry of its list."""
        from tvm import tirx

        place = load(self.places, [self.first + number])
        return tirx.shift_right(place, integer(_BITS)), tirx.bitwise_and(place, integer((1 << _BITS) - 1))


def ahead(work: Work, number: Any, lines: Callable[[Any, Any], Sequence[tuple[Any, int]]]) -> Any:
    """Ask for what a later entry will read: its neighbours in the list are none in memory, so no processor guesses it.

    Args:
        number: the entry that is computed now.
        lines: for (y, x), elements and how many bytes are read from each on.
    """
    from tvm import tirx

    later = tirx.min(number + AHEAD, work.count - 1)
    requests = []
    for element, size in lines(*work.at(later)):
        for offset in range(0, min(max(size - _CACHE_LINE, 4), _MOST_AHEAD), _CACHE_LINE):  # what starts one line and ends in the next: one
            place = list(element.indices)
            place[-1] = place[-1] + offset // 4
            requests.append(prefetch(load(element.source, place), near=True))
    return sequence(requests)


@dataclass(frozen=True)
class Listed:
    """An output of height x width, the inputs whose moved pixels matter, and what is known of its own.

    Attributes:
        result: its moved pixels, which the computation notes; rows are cleared here.
        active: int32 (TASKS,): how many positions each task has computed.
        macs: multiply-accumulates of a position.
    """

    height: int
    width: int
    reaches: Sequence[Reach]
    result: Moved
    active: Any
    macs: int

    def arguments(self, state: Any) -> list[Any]:
        """What a kernel takes behind the operands of the dense function: masks that it reads, then what it keeps."""
        masks = [buffer for reach in self.reaches for buffer in (reach.moved.mask, reach.moved.rows)]
        return [*dict.fromkeys(masks), state, self.result.mask, self.result.rows, self.active]


def fits(height: int, width: int, reaches: Sequence[Reach]) -> bool:
    """Whether lists can number the positions, and masks are wide enough for the windows."""
    if max(height, width) >= 1 << (_BITS - 1):
        return False
    return all(
        reach.before[1] <= LEFT
        and (reach.window[1] - 1) * reach.dilation[1] <= CHUNK
        and reach.strides[1] in (1, 2, 4)
        and (width - 1) * reach.strides[1] + (reach.window[1] - 1) * reach.dilation[1] - reach.before[1] < reach.moved.width + CHUNK
        for reach in reaches
    )


def listed(what: Listed, body: Callable[[Work], Any]) -> Any:
    """The statement that lists positions and computes them; `body` makes the statement for one task."""
    from tvm import tirx

    places = tirx.decl_buffer((what.height * what.width,), "int32", name="places")
    total = local(1, "total", "int32")

    def counted(y: Any) -> Any:
        return store(total, load(total, [0]) + _estimate(what, y), [0])

    def task(number: Any, tasks: Any, slot: Any) -> Any:
        return _task(what, places, load(total, [0]), number, tasks, slot, body)

    def shared(number: Any) -> Any:
        """Where there is little, every second task has nothing: half a list fills its tiles better than a quarter."""
        step = tirx.if_then_else(load(total, [0]) < _FEW * TASKS, integer(2), integer(1))
        return choose(number % step == 0, task(number // step, TASKS // step, number), store(what.active, integer(0), [number]))

    cost = min(what.macs + _POSITION, 1 << 14)
    worth = load(total, [0]) >= integer(-(-PARALLEL_MACS // cost))
    alone = [task(integer(0), 1, integer(0)), loop(TASKS - 1, lambda t: store(what.active, integer(0), [t + 1]))]
    spread_out = parallel(TASKS, shared)
    return allocated(
        [total, places],
        [store(total, integer(0), [0]), loop(what.height, counted, name="y"), choose(worth, spread_out, sequence(alone))],
    )


def _estimate(what: Listed, y: Any) -> Any:
    """Moved pixels in the rows that row y of the output reads."""
    from tvm import tirx

    found: Any = integer(0)
    for reach in what.reaches:
        for tap in range(reach.window[0]):
            row, inside = _row(reach, what.height, y, tap)
            found = found + (
                load(reach.moved.rows, [row]) if inside is True else tirx.if_then_else(inside, load(reach.moved.rows, [row]), integer(0))
            )
    return found


def _row(reach: Reach, height: int, y: Any, tap: int) -> tuple[Any, Any]:
    """The row of the input that one of `height` rows reads, and whether it lies inside the image (True where it always does)."""
    from tvm import tirx

    offset = tap * reach.dilation[0] - reach.before[0]
    row = y * reach.strides[0] + offset
    if offset >= 0 and (height - 1) * reach.strides[0] + offset < reach.moved.height:
        return row, True
    return row, tirx.And(row >= 0, row < reach.moved.height)


def _task(what: Listed, places: Any, total: Any, number: Any, tasks: Any, slot: Any, body: Callable[[Work], Any]) -> Any:
    """List the positions of a task's rows, then compute them; `slot` is the place of its counter and scratch."""
    from tvm import tirx

    passed, first, end = local(1, "passed", "int32"), local(1, "first", "int32"), local(1, "end", "int32")

    def row(y: Any) -> Any:
        cost = local(1, "cost", "int32")
        own: Any = True
        if not isinstance(tasks, int):
            at = load(passed, [0]) * tasks
            own = tirx.And(at >= total * number, tirx.Or(at < total * (number + 1), number == tasks - 1))
        started = choose(load(end, [0]) < 0, sequence([store(first, y * what.width, [0]), store(end, y * what.width, [0])]), _nothing())
        listing = sequence([clear_row(what.result, y), started, _line(what, places, end, y)])
        mine = sequence([store(what.result.rows, integer(0), [y]), choose(load(cost, [0]) > 0, listing, _nothing())])
        handled = mine if own is True else choose(own, mine, _nothing())
        return allocated([cost], [store(cost, _estimate(what, y), [0]), handled, store(passed, load(passed, [0]) + load(cost, [0]), [0])])

    count = load(end, [0]) - load(first, [0])
    work = Work(places, load(first, [0]), count, slot)
    return allocated(
        [passed, first, end],
        [
            store(passed, integer(0), [0]),
            store(first, integer(-1), [0]),
            store(end, integer(-1), [0]),
            loop(what.height, row, name="y"),
            store(what.active, count, [slot]),
            choose(count > 0, body(work), _nothing()),
        ],
    )


def _line(what: Listed, places: Any, end: Any, y: Any) -> Any:
    """Append the positions of a row of the output, a chunk of the masks at a time."""
    from tvm import tirx

    strides = sorted({reach.strides[1] for reach in what.reaches})
    positions = CHUNK // strides[-1]  # of a chunk
    found = {stride: local(positions * stride, f"found{stride}", "uint8") for stride in strides}
    bits = local(1, "bits", "uint8")

    def chunk(number: Any) -> Any:
        x = number * positions
        parts = [whole_store(one, spread(tirx.const(0, "uint8"), int(one.shape[0]))) for one in found.values()]
        for reach in what.reaches:
            parts += [_joined(reach, what.height, found[reach.strides[1]], y, x, tap) for tap in range(reach.window[0])]
        some: Any = None
        for one in found.values():
            any_ = tirx.call_llvm_pure_intrin("uint8", f"llvm.vector.reduce.or.v{int(one.shape[0])}i8", whole(one))
            some = any_ if some is None else tirx.bitwise_or(some, any_)

        def noted(lane: Any) -> Any:
            more: Any = None
            for stride, one in found.items():
                own = load(one, [lane * stride])
                more = own if more is None else tirx.bitwise_or(more, own)
            noting = store(places, y * (1 << _BITS) + x + lane, [load(end, [0])])
            return sequence([noting, store(end, load(end, [0]) + tirx.Cast("int32", more), [0])])

        count = positions if what.width % positions == 0 else tirx.min(integer(positions), what.width - x)
        listing = choose(load(bits, [0]) != tirx.const(0, "uint8"), loop(count, noted, name="lane"), _nothing())
        return sequence([*parts, store(bits, some, [0]), listing])

    return allocated([*found.values(), bits], [loop(-(-what.width // positions), chunk, name="chunk")])


def _joined(reach: Reach, height: int, found: Any, y: Any, x: Any, tap: int) -> Any:
    """Mark what is read through one row of the window: at `x * stride` the mark of position x."""
    from tvm import tirx

    row, inside = _row(reach, height, y, tap)
    size, marks = int(found.shape[0]), whole(found)
    for column in range(reach.window[1]):
        place = x * reach.strides[1] + (column * reach.dilation[1] - reach.before[1] + LEFT)
        marks = tirx.bitwise_or(marks, vector_load(reach.moved.mask, [row, place], size))
    marked = choose(load(reach.moved.rows, [row]) > 0, whole_store(found, marks), _nothing())
    return marked if inside is True else choose(inside, marked, _nothing())


def _nothing() -> Any:
    from tvm import tirx

    return tirx.Evaluate(integer(0))
