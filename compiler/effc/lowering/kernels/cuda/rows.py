"""Functions that go over each row several times, on a device: softmax, normalisations, top-k. A block of threads for each row.

What is done with a row is read from the blocks by their roles, as in `kernels.rows`. Every thread has some elements of the row, each as far
from the next as there are threads, so that neighbours read neighbours. What is kept of the row stays in their registers; of rows that are
too long for that it goes through the device's memory, where each thread reads what it wrote itself. A number of the whole row is found by
all threads together (`block`), in the same order every time, and each of them has it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from effc.lowering.kernels.code import allocated, flat_function, floats, load, loop, sequence, store
from effc.lowering.kernels.cuda.block import Block
from effc.lowering.kernels.cuda.code import WARP, dynamic_places, every, launch, registers, temporary, when
from effc.lowering.kernels.fused import Block as Part
from effc.lowering.kernels.fused import Fused
from effc.lowering.kernels.implementation import Implementation
from effc.lowering.kernels.inlining import Load, NotInlinableError, same
from effc.lowering.kernels.row_selection import kth_largest
from effc.lowering.kernels.rows import ROW, K
from effc.targets import Target

__all__ = ["rows"]

Element = Callable[[Any, Any, Mapping[Any, Load]], Any]

_MOST_THREADS = 1024
_ELEMENTS = 4  # of a thread, before there are more threads
_IN_REGISTERS = 32  # elements of a thread: of all kept rows together


def rows(fused: Fused, fixed: Sequence[bool], target: Target) -> Implementation | None:
    """The passes over the last axis of a function; None where it is none of that kind, or not of float32."""
    if fused.kind != "rows" or str(fused.anchor.buffer.dtype) != "float32":
        return None
    return _Rows(fused).implementation()


class _Rows:
    def __init__(self, fused: Fused) -> None:
        self.fused = fused
        *self.outer, self.length = fused.anchor.extents
        self.number = math.prod(self.outer)
        self.epilogue = fused.epilogue()
        self.steps = [part for part in fused.blocks if ROW in part.annotations]
        kept = [part for part in self.steps if _role(part) == "keep"]
        self.threads = min(_MOST_THREADS, -(-self.length // (_ELEMENTS * WARP)) * WARP)
        self.each = -(-self.length // self.threads)
        self.unrolled = self.each * max(1, len(kept)) <= _IN_REGISTERS
        self.scratch = {} if self.unrolled else {part.buffer: temporary((self.number, self.length), part.name) for part in kept}

    def implementation(self) -> Implementation:
        body = launch((self.number,), self.threads, lambda at, thread: self._row(at[0], Block(self.threads, thread)))
        return Implementation(flat_function(self.fused.arguments, allocated(list(self.scratch.values()), [body])), "rows")

    def _row(self, row: Any, block: Block) -> Any:
        """All passes of a thread over its elements of one row."""
        outer = dynamic_places(self.outer, row)
        known: dict[Any, Load] = {}
        kept: dict[Any, Any] = {}  # where each kept row is
        buffers, statements = [], []

        def elements(statement: Element) -> Any:
            """A statement for each of the thread's elements, given its number, its place in the row and what is known there."""

            def of(turn: Any) -> Any:
                place = block.thread + turn * self.threads
                own = {buffer: _at(load(held, self._kept_at(row, turn, place)), place) for buffer, held in kept.items()}
                inner = statement(turn, place, {**known, **own})
                if self.length % self.threads == 0 or (isinstance(turn, int) and (turn + 1) * self.threads <= self.length):
                    return inner
                return when(place < self.length, inner)

            return every(self.each, of) if self.unrolled else loop(self.each, of, name="turn")

        for part in self.steps:
            role = _role(part)
            if role == "keep":
                held = registers(self.each, part.name) if self.unrolled else self.scratch[part.buffer]
                statements.append(elements(self._keep(part, held, outer, row)))
                buffers += [held] if self.unrolled else []
                kept[part.buffer] = held
                continue
            number = registers(1, part.name)
            buffers.append(number)
            if role == "once":
                statements.append(store(number, self.fused.value(part.buffer, outer, known), [0]))
            elif role == "kth":
                statements.append(self._kth(part, number, outer, block, elements))
            else:
                statements.append(self._pass(part, role, number, outer, block, elements))
            known[part.buffer] = _always(load(number, [0]))

        def result(turn: Any, place: Any, values: Mapping[Any, Load]) -> Any:
            return self.epilogue.store([*outer, place], self.fused.value(self.fused.anchor.buffer, [*outer, place], values))

        return allocated(buffers, [*statements, elements(result)])

    def _kept_at(self, row: Any, turn: Any, place: Any) -> list[Any]:
        return [turn] if self.unrolled else [row, place]

    def _keep(self, part: Part, held: Any, outer: list[Any], row: Any) -> Element:
        def keep(turn: Any, place: Any, values: Mapping[Any, Load]) -> Any:
            return store(held, self.fused.value(part.buffer, [*outer, place], values), self._kept_at(row, turn, place))

        return keep

    def _pass(self, part: Part, role: str, number: Any, outer: list[Any], block: Block, elements: Callable[[Element], Any]) -> Any:
        """One reduction of a row into `number`."""
        from tvm import tirx

        def combine(a: Any, b: Any) -> Any:
            return a + b if role == "sum" else tirx.Select(b > a, b, a)

        start = floats(-math.inf if role == "max" else 0.0)
        source = self.fused.reads(part)[0]

        def accumulate(turn: Any, place: Any, values: Mapping[Any, Load]) -> Any:
            return store(number, combine(load(number, [0]), self.fused.value(source, [*outer, place], values)), [0])

        return sequence([store(number, start, [0]), elements(accumulate), block.reduced(number, combine, start)])

    def _kth(self, part: Part, number: Any, outer: list[Any], block: Block, elements: Callable[[Element], Any]) -> Any:
        """The k-th largest element of a row into `number`: passes that count."""
        from tvm import tirx

        source = next(buffer for buffer in self.fused.reads(part) if str(buffer.dtype) == "float32")

        def count(bound: Any, into: Any, first: bool) -> Any:
            def counted(turn: Any, place: Any, values: Mapping[Any, Load]) -> Any:
                reaches = self.fused.value(source, [*outer, place], values) >= bound
                return store(into, load(into, [0]) + tirx.Select(reaches, floats(1.0), floats(0.0)), [0])

            zero = floats(0.0)
            return sequence([store(into, zero, [0]), elements(counted), block.reduced(into, lambda a, b: a + b, zero)])

        return kth_largest(int(part.annotations[K]), number, count, registers)


def _role(part: Part) -> str:
    return str(part.annotations[ROW])


def _always(value: Any) -> Load:
    return lambda places: value


def _at(value: Any, place: Any) -> Load:
    """A kept element, which a thread has of its own place only."""

    def found(places: Sequence[Any]) -> Any:
        if not same(places[-1], place):
            raise NotInlinableError("a row is read at other places than it is written")
        return value

    return found
