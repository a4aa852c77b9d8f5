"""How far the result of a kernel may lie over an operand that is read for the last time, found from the kernel's own accesses.

    for i: y[i] = max(x[i], 0)                       y may begin where x does: every element is read before it is overwritten
    for i: y[i] = x[i - 1] + x[i] + x[i + 1]         y must begin 4 bytes (one element) before x
    for j: for i: y[i, j] = sum of x[i, ...]         y may not touch x: its last column reads what the first has overwritten

The kernels run forwards, so the question has one number for an answer. At a store, let `end` be how far the result has been written, and
`start` where the first byte lies that is still to be read. The store spares it when `x + start >= y + end`; the distance is the largest
`end - start` over all stores. A result that is stored at least so far in front of its operand destroys nothing that is needed.

The function is walked as it will be printed. Loops around a store are run through one by one (as rows of arrays), those that only read are
intervals, as is everything that the data decides: such an index may be any. What is not understood counts as an access of everything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from effc.lowering.index_ranges import Range, Ranges, Rows, chosen, evaluated, repeated
from effc.lowering.relax_edit import operator_name
from effc.runtime.tensors import dtype_named

__all__ = ["distances"]

_ROWS, _ACCESSES = 1 << 21, 1 << 24  # iterations that are run through, and what they access; a kernel with more shares nothing
_BYTES = ("int8", "uint8")
_ADDRESS = "tirx.address_of"


def distances(function: Any, sizes: Sequence[int], pairs: Sequence[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """For each pair of arguments (read, written): bytes by which the written one must begin in front of the read one.

    Zero or less: they may begin at one place. Less than zero: the written one may even begin so many bytes behind the read one. Pairs are
    left out whose memory may not overlap at all. C compilers may reorder accesses of different types, unless one of them is of bytes:
    only pairs of one type and those with bytes share memory.

    Args:
        function: flat, with pointer arguments, as `effc.lowering.emit.kernels` makes it.
        sizes: bytes of each argument.
        pairs: positions of arguments.
    """
    kinds = [str(pointer.ty.element_type.dtype) for pointer in function.params]
    found: dict[tuple[int, int], int] = {}
    for written in dict.fromkeys(written for _, written in pairs):
        reads = [one for one, to in pairs if to == written and _ordered(kinds[one], kinds[written])]
        if not reads:
            continue
        try:
            trace = _Trace(function, written)
        except _UnclearError:
            continue
        for read in reads:
            distance = trace.distance(read, sizes[read], sizes[written])
            if distance < sizes[written]:
                found[read, written] = distance
    return found


def _ordered(first: str, second: str) -> bool:
    return first == second or first in _BYTES or second in _BYTES


class _UnclearError(Exception):
    """The function does something with its pointers that is not understood."""


@dataclass
class _Accesses:
    """When which bytes are accessed: one entry a place in the function, each with as many elements as it has rows."""

    when: list[tuple[int, tuple[Any, ...]]] = field(default_factory=list)
    edge: list[Any] = field(default_factory=list)  # first byte of a read, end of a write


class _Trace:
    """All accesses of one written argument, and of all others, in the order in which they happen."""

    def __init__(self, function: Any, written: int) -> None:
        pointers = list(function.params)
        self._written = pointers[written]
        self._position = {pointer: index for index, pointer in enumerate(pointers)}
        self._roots: dict[Any, tuple[Any, Any]] = {}  # buffer -> its pointer argument, and the index of its first element
        self._places: dict[Any, tuple[Any, Any]] = {}  # pointer into an argument -> the same
        self._stores: dict[Any, bool] = {}  # loop variable -> whether the written argument is stored to in it
        self._variables: set[Any] = set()  # local buffers of one integer
        self._writes = _Accesses()
        self._reads: dict[int, _Accesses] = {index: _Accesses() for index in range(len(pointers))}
        self._declare(function.body)
        self._statement(function.body, Rows(1, {}))

    def distance(self, read: int, read_bytes: int, written_bytes: int) -> int:
        """Of one argument that is read; at least `-read_bytes`: nothing is read once something was written."""
        writes, reads = self._writes, self._reads[read]
        if not writes.edge or not reads.edge:
            return -read_bytes
        accesses = [*reads.when, *writes.when]
        first_write, count = sum(rows for rows, _ in reads.when), sum(rows for rows, _ in accesses)
        scales = _scales([when for _, when in accesses])
        if count > _ACCESSES or scales is None:
            return written_bytes
        moments, edges, at = np.empty(count, np.int64), np.empty(count, np.int64), 0
        for (rows, when), edge in zip(accesses, (*reads.edge, *writes.edge), strict=True):
            moments[at : at + rows] = sum(scale * one for scale, one in zip(scales, when, strict=False))
            edges[at : at + rows] = edge
            at += rows
        order = np.argsort(moments, kind="stable")
        edges, stored = edges[order], order >= first_write
        end = np.maximum.accumulate(np.where(stored, np.clip(edges, 0, written_bytes), 0))
        start = np.where(stored, read_bytes, np.clip(edges, 0, read_bytes))
        start = np.minimum.accumulate(start[::-1])[::-1]
        open_reads = start < read_bytes
        ends = np.where(stored & open_reads, end - start, -read_bytes)
        return int(max(ends.max(initial=-read_bytes), -read_bytes))

    # ---- statements ------------------------------------------------------------------------------------------------------------

    def _declare(self, body: Any) -> None:
        """Which buffers lie in which argument, which are variables, and which loops store to the written argument."""
        import tvm_ffi
        from tvm import tirx

        loops: list[Any] = []

        def allocated(statement: Any) -> None:
            if "int" in str(statement.buffer.dtype) and [str(size) for size in statement.buffer.shape] == ["1"]:
                self._variables.add(statement.buffer)

        def declared(statement: Any) -> None:
            data = _memory(statement.data)
            self._variables.discard(data)  # another name for its memory
            if data in self._position:
                self._roots[statement.buffer] = (data, None)
            elif data in self._places:
                self._roots[statement.buffer] = self._places[data]

        def bound(statement: Any) -> None:
            if operator_name(statement.value) == _ADDRESS:
                element = statement.value.args[0]
                if element.source not in self._roots:
                    raise _UnclearError("a pointer to what is no argument")
                pointer, base = self._roots[element.source]
                index = element.indices[0]
                self._places[statement.var] = (pointer, index if base is None else base + index)

        acts = (
            (tirx.AllocBuffer, allocated),
            (tirx.DeclBuffer, declared),
            (tirx.Bind, bound),
            (tirx.For, loops.append),
        )
        tvm_ffi.structural_walk(body, acts, order="pre")
        for one in loops:
            stored: list[bool] = []
            tvm_ffi.structural_walk(one, ((tirx.BufferStore, lambda store, stored=stored: stored.append(self._is_written(store.buffer))),))
            self._stores[one.loop_var] = any(stored)

    def _is_written(self, buffer: Any) -> bool:
        pointer, _ = self._roots.get(buffer, (None, None))
        return pointer is not None and self._position[pointer] == self._position[self._written]

    def _statement(self, node: Any, rows: Rows) -> None:
        from tvm import tirx

        if rows.count == 0:
            return
        if isinstance(node, tirx.SeqStmt):
            for position, part in enumerate(node.seq):
                self._statement(part, rows.at(position))
        elif isinstance(node, tirx.For):
            self._loop(node, rows)
        elif isinstance(node, tirx.IfThenElse):
            self._expression(node.condition, rows.at(0))
            holds = chosen(node.condition, rows.ranges)
            self._statement(node.then_case, rows.only(holds[0]).at(1))
            if node.else_case is not None:
                self._statement(node.else_case, rows.only(holds[1]).at(2))
            _forget(node, rows.ranges)
        elif isinstance(node, tirx.BufferStore):
            for part in (*node.indices, node.value):
                self._expression(part, rows.at(0))
            if node.buffer in self._variables:
                rows.ranges[node.buffer] = evaluated(node.value, rows.ranges)
            elif self._is_written(node.buffer):
                _, base = self._roots[node.buffer]
                index = _index(node.indices, base, rows.ranges)
                size = dtype_named(str(node.buffer.dtype)).itemsize
                self._note(self._writes, None if index is None else (index.high + 1) * size, np.iinfo(np.int64).max, rows.at(1))
        elif isinstance(node, tirx.Bind):
            if node.var not in self._places:
                self._expression(node.value, rows.at(0))
                rows.ranges[node.var] = evaluated(node.value, rows.ranges)
        elif isinstance(node, tirx.AttrStmt):
            self._statement(node.body, rows)
        elif isinstance(node, tirx.Evaluate):
            self._evaluate(node.value)
        elif not isinstance(node, (tirx.AllocBuffer, tirx.DeclBuffer, tirx.stmt.Return)):
            raise _UnclearError(type(node).__name__)

    def _evaluate(self, value: Any) -> None:
        from tvm import tirx

        if not isinstance(value, tirx.IntImm) and operator_name(value) != "tirx.call_llvm_intrin":  # a prefetch, which C has not
            raise _UnclearError(str(value)[:80])

    def _loop(self, node: Any, rows: Rows) -> None:
        for part in (node.min, node.extent):
            self._expression(part, rows.at(0))
        start, extent = evaluated(node.min, rows.ranges), evaluated(node.extent, rows.ranges)
        _forget(node.body, rows.ranges)
        if not self._stores[node.loop_var]:
            inside = rows.only(True if extent is None else extent.high > 0)
            start, extent = evaluated(node.min, inside.ranges), evaluated(node.extent, inside.ranges)
            known = start is not None and extent is not None
            inside.ranges[node.loop_var] = Range(start.low, start.high + extent.high - 1) if known else None  # type: ignore[union-attr]
            self._statement(node.body, inside.at(1))
            return
        if start is None or extent is None:
            raise _UnclearError("a loop whose length the data decides")
        longest = max(int(np.max(extent.high)), 0)
        if longest * rows.count > _ROWS:
            raise _UnclearError("too many iterations")
        inside, number = rows.repeated(longest)
        inside.ranges[node.loop_var] = Range(repeated(start.low, longest) + number, repeated(start.high, longest) + number)
        inside = Rows(inside.count, inside.ranges, (*inside.when, 1, number))
        self._statement(node.body, inside.only(number < repeated(extent.high, longest)))

    # ---- expressions -----------------------------------------------------------------------------------------------------------

    def _expression(self, node: Any, rows: Rows) -> None:
        """Note what an expression reads."""
        import tvm_ffi
        from tvm import tirx
        from tvm.ir import Call, TensorLoad

        def let(one: Any) -> None:
            rows.ranges[one.var] = evaluated(one.value, rows.ranges)

        def load(one: Any) -> None:
            pointer, base = self._roots.get(one.source, (None, None))
            if pointer is not None:
                index = _index(one.indices, base, rows.ranges)
                size = dtype_named(str(one.source.dtype)).itemsize
                self._note(self._reads[self._position[pointer]], None if index is None else index.low * size, 0, rows)

        def call(one: Any) -> None:
            if operator_name(one) == _ADDRESS:
                raise _UnclearError("a pointer in an expression")

        tvm_ffi.structural_walk(node, ((tirx.Let, let), (TensorLoad, load), (Call, call)), order="pre")

    def _note(self, accesses: _Accesses, edge: Any, anywhere: int, rows: Rows) -> None:
        accesses.when.append((rows.count, rows.when))
        accesses.edge.append(anywhere if edge is None else edge)


def _forget(node: Any, ranges: Ranges) -> None:
    """The values of local variables that a loop or branch stores to: not known before its next store, and not behind it."""
    import tvm_ffi
    from tvm import tirx

    tvm_ffi.structural_walk(node, ((tirx.BufferStore, lambda one: ranges.update({one.buffer: None})),))


def _scales(moments: Sequence[Sequence[Any]]) -> list[int] | None:
    """What makes one number of a moment, that is as large as the moment is late; None where 64 bits are too few."""
    scales, scale = [], 1
    for place in reversed(range(max(map(len, moments)))):
        scales.append(scale)
        scale *= 1 + max(int(np.max(one[place], initial=0)) for one in moments if len(one) > place)
    return scales[::-1] if scale < 1 << 62 else None


def _index(indices: Sequence[Any], base: Any, ranges: Mapping[Any, Range | None]) -> Range | None:
    """Of an element of flat memory; None where the data decides."""
    if len(indices) != 1:
        return None
    return evaluated(indices[0] if base is None else base + indices[0], ranges)


def _memory(data: Any) -> Any:
    """The pointer that a buffer is declared over; TVM wraps it."""
    from tvm.ir import Call

    return data.args[0] if isinstance(data, Call) else data
