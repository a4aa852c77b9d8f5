"""Functions that go over each row several times: softmax, normalisations. Rows over threads, vectors along a row, which stays in the cache.

What is done with a row is read from the blocks, in their order, by their annotation `effc.row`:

    max, sum    a pass over the row: the largest element, or the sum, of the one buffer that the block reads
    kth         passes that count: the k-th largest element (`row_selection`) of the kept row that the block reads first
    once        a number of the whole row, computed from others
    keep        a row that is stored, in the pass that reads it first, and from then on read

and everything else is inlined where it is used. The last block, the anchor, is the pass that stores the results. Whole vectors are
followed by powers of two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from effc.lowering.kernels.code import allocated, flat_function, floats, integer, load, local, loop, parallel, sequence, store, vector
from effc.lowering.kernels.fused import Block, Fused
from effc.lowering.kernels.implementation import Implementation
from effc.lowering.kernels.inlining import Load
from effc.lowering.kernels.lanes import across
from effc.lowering.kernels.products import pieces
from effc.lowering.kernels.row_selection import kth_largest
from effc.lowering.kernels.tiles import lanes_of
from effc.targets import Target

__all__ = ["ROW", "K", "rows"]

ROW = "effc.row"
K = "effc.k"  # of a block of the role `kth`
_TASKS = 32  # where each needs a buffer of its own
_PARALLEL_ELEMENTS = 1 << 13  # below it, starting threads costs more than they save
_UNDER_WAY = 4  # accumulators of a pass: a result is ready after four cycles


def rows(fused: Fused, fixed: Sequence[bool], target: Target) -> Implementation | None:
    """The passes over the last axis of a function; None where it is none of that kind, or not of float32."""
    if fused.kind != "rows" or str(fused.anchor.buffer.dtype) != "float32":
        return None
    return _Rows(fused, target).implementation()


class _Rows:
    def __init__(self, fused: Fused, target: Target) -> None:
        self.fused = fused
        *self.outer, self.length = fused.anchor.extents
        self.number = math.prod(self.outer)
        self.lanes = lanes_of(target, "float32")
        self.epilogue = fused.epilogue()
        self.in_place = fused.result.same_as(fused.anchor.buffer)
        self.steps = [block for block in fused.blocks if ROW in block.annotations]

    def implementation(self) -> Implementation:
        from tvm import tirx

        spread = parallel if self.number * self.length >= _PARALLEL_ELEMENTS and self.number > 1 else loop
        kept = [block for block in self.steps if self._role(block) == "keep"]
        if not kept or self.in_place:
            body = spread(self.number, lambda row: self._row(row, self._places(row), self._in_result))
            return Implementation(flat_function(self.fused.arguments, body), "rows")
        tasks = min(self.number, _TASKS) if spread is parallel else 1
        scratch = tirx.decl_buffer((tasks, self.length), "float32", name="scratch")

        each = -(-self.number // tasks)
        tasks = -(-self.number // each)

        def task(number: Any) -> Any:
            first = number * each
            return loop(
                tirx.min(integer(each), self.number - first),
                lambda row: self._row(row, self._places(row), lambda place: (scratch, [number, place[-1]])),
                start=first,
                name="row",
            )

        body = spread(tasks, task)
        return Implementation(flat_function(self.fused.arguments, allocated([scratch], [body])), "rows")

    def _in_result(self, place: Sequence[Any]) -> tuple[Any, list[Any]]:
        return self.fused.result, list(place)

    @staticmethod
    def _role(block: Block) -> str:
        return str(block.annotations[ROW])

    def _places(self, row: Any) -> list[Any]:
        """The index of a row along the outer axes."""
        found: list[Any] = []
        for axis, size in reversed(list(enumerate(self.outer))):
            if size == 1:
                found.append(integer(0))
            elif math.prod(self.outer[:axis]) == 1:
                found.append(row)
            else:
                found.append(row % size)
                row = row // size
        return list(reversed(found))

    def _row(self, row: Any, outer: list[Any], where: Callable[[Sequence[Any]], tuple[Any, list[Any]]]) -> Any:
        """All passes over one row; `where` says for a place in which buffer, and where there, a kept expression lies."""
        known: dict[Any, Load] = {}
        buffers, statements, pending = [], [], []
        for block in self.steps:
            role = self._role(block)
            if role == "keep":
                pending.append(block)
                continue
            number = local(1, block.name)
            buffers.append(number)
            if role == "once":
                value = self.fused.value(block.buffer, outer, known)
                statements.append(store(number, value, [0]))
            else:
                over = self._kth if role == "kth" else self._pass
                statements.append(over(block, role, number, outer, dict(known), pending, where))
                for kept in pending:
                    known[kept.buffer] = lambda places: load(*where(places))
                pending = []
            known[block.buffer] = _always(load(number, [0]))
        statements.append(self._results(outer, known))
        return allocated(buffers, statements)

    def _pass(
        self,
        block: Block,
        role: str,
        number: Any,
        outer: list[Any],
        known: dict[Any, Load],
        pending: Sequence[Block],
        where: Callable[[Sequence[Any]], tuple[Any, list[Any]]],
    ) -> Any:
        """One reduction of a row into `number`; pending expressions are stored on the way."""
        from tvm import tirx

        def combine(a: Any, b: Any) -> Any:
            return a + b if role == "sum" else tirx.Select(b > a, b, a)

        def element(place: Any, values: Mapping[Any, Load]) -> Any:
            return self.fused.value(self.fused.reads(block)[0], [*outer, place], {**known, **values})

        start = floats(-math.inf if role == "max" else 0.0)
        return self._reduced(start, combine, element, number, outer, known, pending, where)

    def _kth(
        self,
        block: Block,
        role: str,
        number: Any,
        outer: list[Any],
        known: dict[Any, Load],
        pending: Sequence[Block],
        where: Callable[[Sequence[Any]], tuple[Any, list[Any]]],
    ) -> Any:
        """The k-th largest element of a row into `number`; pending expressions are stored in the first pass."""
        from tvm import tirx

        row = next(buffer for buffer in self.fused.reads(block) if str(buffer.dtype) == "float32")
        stored = {**known, **{kept.buffer: lambda places: load(*where(places)) for kept in pending}}

        def count(bound: Any, into: Any, first: bool) -> Any:
            def element(place: Any, values: Mapping[Any, Load]) -> Any:
                value = self.fused.value(row, [*outer, place], {**(known if first else stored), **values})
                return tirx.Select(value >= bound, floats(1.0), floats(0.0))

            held = known if first else stored
            return self._reduced(floats(0.0), lambda a, b: a + b, element, into, outer, held, pending if first else [], where)

        return kth_largest(int(block.annotations[K]), number, count)

    def _reduced(
        self,
        start: Any,
        combine: Callable[[Any, Any], Any],
        element: Callable[[Any, Mapping[Any, Load]], Any],
        number: Any,
        outer: list[Any],
        known: Mapping[Any, Load],
        pending: Sequence[Block],
        where: Callable[[Sequence[Any]], tuple[Any, list[Any]]],
    ) -> Any:
        """A pass over a row that combines `element(place, kept values)` into `number`, and stores pending expressions on the way."""

        def add(sums: Any, first: Any, size: int) -> Any:
            values, stored, locals_ = {}, [], []
            for kept in pending:
                one = local(size, kept.name)
                locals_.append(one)

                def compute(lane: Any, kept: Block = kept, one: Any = one) -> Any:
                    return store(one, self.fused.value(kept.buffer, [*outer, first + lane], known), [lane])

                def keep(lane: Any, one: Any = one) -> Any:
                    buffer, place = where([*outer, first + lane])
                    return store(buffer, load(one, [lane]), place)

                stored += [vector(size, compute), vector(size, keep)]
                values[kept.buffer] = one

            def accumulate(lane: Any) -> Any:
                reads = {buffer: _always(load(one, [lane])) for buffer, one in values.items()}
                return store(sums, combine(load(sums, [lane]), element(first + lane, reads)), [lane])

            return allocated(locals_, [*stored, vector(size, accumulate)]) if locals_ else vector(size, accumulate)

        def cleared(one: Any) -> Any:
            return vector(int(one.shape[0]), lambda lane: store(one, start, [lane]))

        def merged(one: Any) -> Any:
            return vector(self.lanes, lambda lane: store(sums[0], combine(load(sums[0], [lane]), load(one, [lane])), [lane]))

        whole = self.length // self.lanes
        count = max(1, min(_UNDER_WAY, whole)) if self.lanes > 1 else 1  # without vectors, short code counts
        sums = [local(self.lanes, f"sums{i}") for i in range(count)] if whole else []
        rest = pieces(self.length % self.lanes)
        ends = [local(size, f"end{size}") for _, size in rest]
        body = [cleared(one) for one in (*sums, *ends)]
        turns = whole // count
        if whole:
            body.append(
                loop(
                    turns,
                    lambda turn: sequence([add(one, (turn * count + i) * self.lanes, self.lanes) for i, one in enumerate(sums)]),
                    name="turn",
                )
            )
            body += [add(sums[i], (turns * count + i) * self.lanes, self.lanes) for i in range(whole - turns * count)]
            body += [*(merged(one) for one in sums[1:]), across(sums[0], self.lanes, combine)]
        for (first, size), end in zip(rest, ends, strict=True):
            body.append(add(end, whole * self.lanes + first, size))
            if size > 1:
                body.append(across(end, size, combine))
        total: Any = None
        for one in (*sums[:1], *ends):
            total = load(one, [0]) if total is None else combine(total, load(one, [0]))
        body.append(store(number, total, [0]))
        return allocated([*sums, *ends], body)

    def _results(self, outer: list[Any], known: Mapping[Any, Load]) -> Any:
        anchor = self.fused.anchor

        def result(first: Any, size: int) -> Any:
            def of(lane: Any) -> Any:
                place = [*outer, first + lane]
                return self.epilogue.store(place, self.fused.value(anchor.buffer, place, known))

            return vector(size, of)

        whole = self.length // self.lanes
        body = [loop(whole, lambda number: result(number * self.lanes, self.lanes), name="vector")] if whole else []
        body += [result(whole * self.lanes + first, size) for first, size in pieces(self.length % self.lanes)]
        return sequence(body)


def _always(value: Any) -> Load:
    return lambda places: value
