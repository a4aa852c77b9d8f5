"""Reading a fused TIR function: its anchor (the convolution, the product, ...), what its operands are, what happens to its results.

Relax fuses an operator with its neighbours into one function of blocks, each `buffer[i, j, ...] = expression`. Kernels written by hand
ask for the value of any buffer at any place as an expression of the function's arguments: blocks in front of the anchor and behind it
are inlined wherever they are used. What has no such form (a second reduction, a result that is larger than the anchor) is refused with
`NotInlinableError`, and the function is scheduled block by block instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from effc.lowering.kernels.inlining import Load, NotInlinableError, inlined, rebuilt, same
from effc.lowering.kernels.options import Known, Options

__all__ = ["ANCHOR", "Block", "Epilogue", "Fused", "blocks_of"]

ANCHOR = "effc.anchor"
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Block:
    """`buffer[indices] = value` for all iterations; a reduction's value holds the buffer itself."""

    name: str
    buffer: Any
    indices: tuple[Any, ...]
    value: Any
    variables: tuple[Any, ...]
    extents: tuple[int, ...]
    kinds: str
    annotations: Mapping[str, Any]

    @property
    def spatial(self) -> bool:
        return set(self.kinds) <= {"S"}


class Fused:
    """A function's arguments and blocks.

    Attributes:
        arguments: all buffers of the function, inputs first.
        result: the one buffer that it writes.
        anchor: the block that carries the annotation `effc.anchor`.
        values: what the arguments hold that are stored tensors, by position.
        options: what may be chosen among kernels.
        known: what is known of the program and its data; None where nothing is.
        remarks: what rules found out from the values and a reader should know, such as why one of them does not apply.
        reasons: the same for what they found out from the function alone.
    """

    def __init__(
        self,
        function: Any,
        values: Mapping[int, Array] = MappingProxyType({}),
        options: Options | None = None,
        known: Known | None = None,
    ) -> None:
        self.values, self.options, self.known = values, options or Options(), known
        self.remarks: list[str] = []
        self.reasons: list[str] = []
        self.arguments = list(function.params)
        self.blocks = blocks_of(function)
        self._written = {block.buffer: block for block in self.blocks}
        if len(self._written) != len(self.blocks):
            raise NotInlinableError("a buffer is written twice")
        results = [buffer for buffer in self.arguments if buffer in self._written]
        anchors = [block for block in self.blocks if ANCHOR in block.annotations]
        if len(results) != 1 or len(anchors) != 1:
            raise NotInlinableError(f"{len(results)} results, {len(anchors)} anchors")
        self.result, self.anchor = results[0], anchors[0]

    @property
    def kind(self) -> str:
        return str(self.anchor.annotations[ANCHOR])

    def numbers(self, key: str) -> tuple[int, ...]:
        """A list of integers that the anchor is annotated with."""
        return tuple(int(value) for value in self.anchor.annotations[f"effc.{key}"])

    def number(self, key: str) -> int:
        return int(self.anchor.annotations[f"effc.{key}"])

    def reads(self, block: Block | None = None) -> list[Any]:
        """The buffers that a block (the anchor) loads, in order of appearance, without its own result."""
        block = block or self.anchor
        found: list[Any] = []
        rebuilt(block.value, {}, lambda buffer, indices: _note(found, buffer, indices))
        return [buffer for buffer in found if buffer is not block.buffer and not buffer.same_as(block.buffer)]

    def source(self, buffer: Any) -> Block | None:
        """The block that writes a buffer; None for an argument."""
        return self._written.get(buffer)

    def argument(self, buffer: Any) -> int | None:
        """The position of a buffer among the function's arguments; None for one that a block computes."""
        return next((i for i, one in enumerate(self.arguments) if one.same_as(buffer) and buffer not in self._written), None)

    def value(self, buffer: Any, indices: Sequence[Any], known: Mapping[Any, Load] | None = None) -> Any:
        """A buffer's element as an expression of the arguments, or of what `known` says of a buffer.

        What blocks compute and others read more than once is bound to a variable, so that chains of activations stay as long as they are.
        """
        return inlined(buffer, indices, self._written, known or {})

    def epilogue(self) -> Epilogue:
        """What is stored where, for each element of the anchor."""
        import tvm
        from tvm import tirx

        block = self._written[self.result]
        if self.result.same_as(self.anchor.buffer):
            variables = [tirx.Var(f"r{axis}", "int32") for axis in range(len(self.result.shape))]
            sum_ = tirx.Var("sum", tvm.ir.PrimType(str(self.result.dtype)))
            return Epilogue(self.result, tuple(variables), sum_, sum_, tuple(variables))
        variables = [tirx.Var(f"r{axis}", "int32") for axis in range(len(block.extents))]
        sum_ = tirx.Var("sum", tvm.ir.PrimType(str(self.anchor.buffer.dtype)))
        places: list[Sequence[Any]] = []

        def loaded(indices: Sequence[Any]) -> Any:
            places.append(indices)
            return sum_

        expression = self.value(self.result, variables, {self.anchor.buffer: loaded})
        first = places[0] if places else ()
        for other in places[1:]:
            if not all(same(a, b) for a, b in zip(first, other, strict=True)):
                raise NotInlinableError("the results are read at two places")
        free = [v for v, extent in zip(variables, block.extents, strict=True) if extent > 1]
        used = [place for place in first if not _is_zero(place)]
        if len(used) != len(set(used)) or not all(any(place.same_as(v) for v in variables) for place in used):
            raise NotInlinableError("the results are stored in no order of their axes")
        if not all(any(v.same_as(place) for place in used) for v in free):
            raise NotInlinableError("the result is larger than the anchor")
        sizes = dict(zip(variables, block.extents, strict=True))
        stored = [1 if _is_zero(place) else sizes[place] for place in first]
        if stored != [int(size) for size in self.anchor.buffer.shape]:  # the kernel would write the others, too
            raise NotInlinableError("only some of the results are stored")
        return Epilogue(self.result, tuple(variables), sum_, expression, tuple(first))


@dataclass(frozen=True)
class Epilogue:
    """`result[variables] = expression`, where `sum` stands for the anchor's element at `places` (each a variable or 0)."""

    result: Any
    variables: tuple[Any, ...]
    sum: Any
    expression: Any
    places: tuple[Any, ...]

    def store(self, position: Sequence[Any], value: Any) -> Any:
        """The statement that stores the anchor's element at `position`, given its value."""
        from tvm import tirx

        return tirx.BufferStore(self.result, self.value(position, value), self._indices(position))

    def value(self, position: Sequence[Any], value: Any) -> Any:
        """What is stored for the anchor's element at `position`, given its value."""
        from tvm import tirx

        values = dict(zip(self.variables, self._indices(position), strict=True)) | {self.sum: value}
        return rebuilt(self.expression, values, tirx.BufferLoad)

    def at(self, expression: Any, position: Sequence[Any]) -> Any:
        """An expression of `variables` for the anchor's element at `position`."""
        from tvm import tirx

        return rebuilt(expression, dict(zip(self.variables, self._indices(position), strict=True)), tirx.BufferLoad)

    def _indices(self, position: Sequence[Any]) -> list[Any]:
        from tvm import tirx

        given = {place: where for place, where in zip(self.places, position, strict=True) if not _is_zero(place)}
        return [given.get(variable, tirx.IntImm("int32", 0)) for variable in self.variables]


def _note(found: list[Any], buffer: Any, indices: Sequence[Any]) -> Any:
    from tvm import tirx

    if not any(buffer.same_as(one) for one in found):
        found.append(buffer)
    return tirx.BufferLoad(buffer, list(indices))


def blocks_of(function: Any) -> list[Block]:
    from tvm import s_tir, tirx

    if not isinstance(function.body, s_tir.SBlockRealize):
        raise NotInlinableError("a function without blocks")
    body = function.body.block.body
    nests = list(body.seq) if isinstance(body, tirx.SeqStmt) else [body]
    return [_block(nest) for nest in nests]


def _block(statement: Any) -> Block:
    from tvm import s_tir, tirx

    loops = []
    while isinstance(statement, tirx.For):
        loops.append(statement)
        statement = statement.body
    if not isinstance(statement, s_tir.SBlockRealize) or not isinstance(statement.block.body, tirx.BufferStore):
        raise NotInlinableError("a block that is no single store")
    block, values = statement.block, statement.iter_values
    letters = {tirx.IterVar.DataPar: "S", tirx.IterVar.CommReduce: "R"}
    kinds = "".join(letters.get(axis.iter_type, "O") for axis in block.iter_vars)
    extents = []
    for axis in block.iter_vars:
        if not isinstance(axis.dom.extent, tirx.IntImm):
            raise NotInlinableError("an extent that is not constant")
        extents.append(int(axis.dom.extent))
    moving = [loop for loop in loops if not (isinstance(loop.extent, tirx.IntImm) and int(loop.extent) == 1)]
    bound = [value for value in values if isinstance(value, tirx.Var)]
    if not all(any(loop.loop_var.same_as(value) for value in bound) for loop in moving):
        raise NotInlinableError("loops that are not the block's axes")
    return Block(
        name=str(block.name_hint),
        buffer=block.body.buffer,
        indices=tuple(block.body.indices),
        value=block.body.value,
        variables=tuple(axis.var for axis in block.iter_vars),
        extents=tuple(extents),
        kinds=kinds,
        annotations={str(key): value for key, value in block.annotations.items()},
    )


def _is_zero(expression: Any) -> bool:
    from tvm import tirx

    return isinstance(expression, tirx.IntImm) and int(expression) == 0
