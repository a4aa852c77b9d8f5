"""Functions of blocks that end with a dequantisation, cut in front of it, and functions that begin with it (see `narrowing`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from effc.lowering.kernels.fused import Block, blocks_of
from effc.lowering.kernels.inlining import NotInlinableError, inlined, rebuilt, same

__all__ = ["WIDE", "Border", "border_of", "cut", "extended"]

WIDE = ("int16", "int32", "float32")  # what bytes are dequantised to
_BYTES = ("int8", "uint8")


@dataclass(frozen=True)
class Border:
    """How a function ends: `result[variables] = value`, where `byte` stands for the element of the buffer `bytes` at `places`.

    Attributes:
        numbers: the other arguments that the value reads, one element each, by position.
    """

    result: Any
    variables: tuple[Any, ...]
    bytes: Any
    places: tuple[Any, ...]
    byte: Any
    value: Any
    numbers: tuple[int, ...]

    @property
    def moves(self) -> bool:
        """Whether a byte stands at another place than what it becomes."""
        pairs = zip(self.places, self.variables, strict=False)
        return len(self.places) != len(self.variables) or not all(place.same_as(variable) for place, variable in pairs)

    def argument(self, function: Any) -> int | None:
        """The position of the bytes among the arguments of the border's function; None where the function computes them."""
        return _position(function.params, self.bytes)


def border_of(function: Any, reads: int) -> Border | None:
    """How a function ends that dequantises at last; None for another. `reads`: of its arguments, the first ones."""
    try:
        blocks = blocks_of(function)
    except NotInlinableError:
        return None
    written = {block.buffer: block for block in blocks}
    results = [buffer for buffer in function.params[reads:] if buffer in written]
    if len(results) != 1 or len(written) != len(blocks):
        return None
    block = written[results[0]]
    if not block.spatial or not all(i.same_as(v) for i, v in zip(block.indices, block.variables, strict=True)):
        return None
    source = block.buffer  # backwards from the result: the first buffer of bytes
    while str(source.dtype) not in _BYTES:
        writer = written.get(source)
        tensors = [] if writer is None else [one for one in _operands(writer) if math.prod(_shape(one)) > 1]
        if len(tensors) != 1:
            return None
        source = tensors[0]
    return _value(function, block, source, written)


def _value(function: Any, block: Block, source: Any, written: Mapping[Any, Block]) -> Border | None:
    """The last block's value as a function of a byte of `source`, if it is of the form that a reader may compute again and again."""
    import tvm
    from tvm import tirx

    byte = tirx.Var("byte", tvm.ir.PrimType(str(source.dtype)))
    read: list[tuple[Any, ...]] = []

    def element(places: Sequence[Any]) -> Any:
        read.append(tuple(places))
        return byte

    try:
        value = inlined(block.buffer, block.variables, written, {source: element})
    except NotInlinableError:
        return None
    numbers: list[int] = []
    if not read or not all(same(a, b) for other in read for a, b in zip(other, read[0], strict=True)):
        return None
    if not _cheap(value, byte, function.params, numbers):
        return None
    return Border(block.buffer, block.variables, source, read[0], byte, value, tuple(dict.fromkeys(numbers)))


def _cheap(value: Any, byte: Any, parameters: Sequence[Any], numbers: list[int]) -> bool:
    """Whether an expression only casts, subtracts and multiplies a byte and arguments of one element, whose positions it notes."""
    from tvm import tirx
    from tvm.ir import TensorLoad

    if isinstance(value, TensorLoad):
        place = _position(parameters, value.source)
        numbers += [] if place is None else [place]
        return place is not None and math.prod(_shape(value.source)) == 1
    if isinstance(value, tirx.Cast):
        return _cheap(value.value, byte, parameters, numbers)
    if type(value).__name__ in ("Sub", "Mul"):
        return _cheap(value.a, byte, parameters, numbers) and _cheap(value.b, byte, parameters, numbers)
    return isinstance(value, (tirx.IntImm, tirx.FloatImm)) or value.same_as(byte)


def cut(function: Any, border: Border) -> tuple[Any, list[int]]:
    """The function that ends with the bytes, and the positions of the arguments that it still reads."""
    from tvm import tirx

    root = function.body.block
    blocks = blocks_of(function)
    written = {block.buffer: block for block in blocks}
    needed: list[Any] = [border.bytes]
    for buffer in needed:
        block = written.get(buffer)
        needed += [] if block is None else [one for one in _operands(block) if not any(one.same_as(other) for other in needed)]
    nests = list(root.body.seq) if hasattr(root.body, "seq") else [root.body]
    kept = [nest for nest, block in zip(nests, blocks, strict=True) if any(block.buffer.same_as(one) for one in needed)]
    reads = [i for i, one in enumerate(function.params) if any(one.same_as(other) for other in needed)]
    inside = [one for one in root.alloc_buffers if any(one.same_as(other) for other in needed)]
    result = border.bytes
    if border.moves:
        result = tirx.decl_buffer(list(border.result.shape), str(border.bytes.dtype), name=border.result.name)
        kept.append(_nest(result, tirx.BufferLoad(border.bytes, list(border.places)), border.variables))
    else:
        inside = [one for one in inside if not one.same_as(result)]
    return _function(function, [*(function.params[i] for i in reads), result], inside, kept), reads


def extended(function: Any, place: int, reads: int, border: Border) -> Any:
    """The function with bytes in the place of an argument, which it computes from them; their numbers follow its `reads` arguments."""
    from tvm import tirx

    root, parameters = function.body.block, list(function.params)
    wide = parameters[place]
    sizes = list(wide.shape)
    narrow = tirx.decl_buffer(sizes, str(border.bytes.dtype), name=f"{wide.name}_bytes")
    scalars: dict[Any, Any] = {}  # of the border's function -> of this one

    def number(buffer: Any, indices: Sequence[Any]) -> Any:
        if buffer not in scalars:
            scalars[buffer] = tirx.decl_buffer(list(buffer.shape), str(buffer.dtype), name=buffer.name)
        return tirx.BufferLoad(scalars[buffer], list(indices))

    variables = [tirx.Var(f"v{axis}", "int64") for axis in range(len(sizes))]
    value = rebuilt(border.value, {border.byte: tirx.BufferLoad(narrow, variables)}, number)
    first = _nest(wide, value, variables)
    nests = list(root.body.seq) if hasattr(root.body, "seq") else [root.body]
    arguments = [*parameters[:place], narrow, *parameters[place + 1 : reads], *scalars.values(), *parameters[reads:]]
    return _function(function, arguments, [wide, *root.alloc_buffers], [first, *nests])


def _nest(result: Any, value: Any, variables: Sequence[Any]) -> Any:
    """The loops and the block of `result[variables] = value`."""
    import tvm
    from tvm import s_tir, tirx

    def region(buffer: Any, indices: Sequence[Any]) -> Any:
        return tirx.BufferRegion(buffer, [tvm.ir.Range.from_min_extent(index, tirx.IntImm("int64", 1)) for index in indices])

    reads: list[Any] = []

    def note(buffer: Any, indices: Sequence[Any]) -> Any:
        reads.append(region(buffer, indices))
        return tirx.BufferLoad(buffer, list(indices))

    value = rebuilt(value, {}, note)
    sizes = [tirx.IntImm("int64", int(size)) for size in result.shape]
    loops = [tirx.Var(f"i{axis}", "int64") for axis in range(len(sizes))]
    zero = tirx.IntImm("int64", 0)
    axes = [
        tirx.IterVar(tvm.ir.Range.from_min_extent(zero, size), variable, tirx.IterVar.DataPar)
        for size, variable in zip(sizes, variables, strict=True)
    ]
    body = tirx.BufferStore(result, value, list(variables))
    block = s_tir.SBlock(axes, reads, [region(result, variables)], "crossing", body)
    statement: Any = s_tir.SBlockRealize(loops, True, block)
    for variable, size in zip(reversed(loops), reversed(sizes), strict=True):
        statement = tirx.For(variable, zero, size, tirx.ForKind.SERIAL, statement)
    return statement


def _function(like: Any, arguments: Sequence[Any], inside: Sequence[Any], nests: Sequence[Any]) -> Any:
    """A function over `arguments` with the attributes of another."""
    from tvm import s_tir, tirx

    body = tirx.SeqStmt(list(nests)) if len(nests) > 1 else nests[0]
    root = s_tir.SBlock([], [], [], "root", body, None, list(inside))
    return tirx.PrimFunc(list(arguments), s_tir.SBlockRealize([], True, root), like.ret_type, like.attrs)


def _operands(block: Block) -> list[Any]:
    """The buffers that a block loads, but for its own."""
    from tvm import tirx

    found: list[Any] = []

    def note(buffer: Any, indices: Sequence[Any]) -> Any:
        if not buffer.same_as(block.buffer) and not any(buffer.same_as(one) for one in found):
            found.append(buffer)
        return tirx.BufferLoad(buffer, list(indices))

    rebuilt(block.value, {}, note)
    return found


def _shape(buffer: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in buffer.shape)


def _position(buffers: Sequence[Any], buffer: Any) -> int | None:
    return next((i for i, one in enumerate(buffers) if one.same_as(buffer)), None)
