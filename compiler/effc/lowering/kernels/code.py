"""The few constructors that hand-written kernels are made of: loops, vectors, local buffers, functions, as TIR nodes.

A kernel built from these has no blocks: what is written here is what runs. `emit` gives its buffers pointers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

__all__ = [
    "FLAT",
    "allocated",
    "choose",
    "copied",
    "flat_function",
    "floats",
    "integer",
    "load",
    "local",
    "located",
    "loop",
    "parallel",
    "prefetch",
    "sequence",
    "single",
    "store",
    "vector",
]

Body = Callable[[Any], Any]
Index = Any  # an int or an int32 expression

FLAT = "effc.flat"  # attribute of functions without blocks


def integer(value: int) -> Any:
    from tvm import tirx

    return tirx.IntImm("int32", value)


def floats(value: float, dtype: str = "float32") -> Any:
    from tvm import tirx

    return tirx.const(value, dtype)


def _expression(value: Index) -> Any:
    return integer(value) if isinstance(value, int) else value


def _for(extent: Index, body: Body, kind: str, start: Index, name: str) -> Any:
    import tvm
    from tvm import tirx

    if isinstance(extent, int) and extent == 1:
        return body(_expression(start))
    variable = tirx.Var(name, tvm.ir.PrimType("int32"))
    if isinstance(start, int) and start == 0:
        return tirx.For(variable, integer(0), _expression(extent), getattr(tirx.ForKind, kind), body(variable))
    # A loop from 0: some of TVM's passes take no other.
    return tirx.For(variable, integer(0), _expression(extent), getattr(tirx.ForKind, kind), body(variable + start))


def loop(extent: Index, body: Body, start: Index = 0, name: str = "i") -> Any:
    """`for i in range(start, start + extent)`; one iteration is no loop."""
    return _for(extent, body, "SERIAL", start, name)


def parallel(extent: int, body: Body, name: str = "task") -> Any:
    """A loop whose iterations the thread pool shares out in contiguous ranges."""
    return _for(extent, body, "PARALLEL", 0, name)


def vector(width: int, body: Body) -> Any:
    """All lanes at once."""
    return _for(width, body, "VECTORIZED", 0, "lane")


def sequence(statements: Sequence[Any]) -> Any:
    from tvm import tirx

    if not statements:
        return tirx.Evaluate(integer(0))
    return tirx.SeqStmt(list(statements)) if len(statements) != 1 else statements[0]


def local(width: int, name: str, dtype: str = "float32") -> Any:
    """A buffer that stays in registers: under 1 KiB, and only accessed at constant places."""
    from tvm import tirx

    return tirx.decl_buffer((width,), dtype, name=name)


def allocated(buffers: Sequence[Any], statements: Sequence[Any]) -> Any:
    """Statements with the buffers that live while they run."""
    from tvm import tirx

    return sequence([*(tirx.AllocBuffer(buffer) for buffer in buffers), *statements])


def load(buffer: Any, indices: Sequence[Index]) -> Any:
    from tvm import tirx

    return tirx.BufferLoad(buffer, [_expression(index) for index in indices])


def store(buffer: Any, value: Any, indices: Sequence[Index]) -> Any:
    from tvm import tirx

    return tirx.BufferStore(buffer, value, [_expression(index) for index in indices])


def located(element: Any, name: str) -> tuple[Any, list[Any]]:
    """A flat buffer whose first element is the given one, and the statements that find where it lies.

    Elements around it are then read at distances that are known now, which costs a processor nothing; an index that comes from data is
    computed once.
    """
    import tvm
    from tvm import tirx

    dtype = str(element.source.dtype)
    pointer = tirx.Var(name, tvm.ir.PointerType(tvm.ir.PrimType(dtype), "global"))
    buffer = tirx.decl_buffer((1,), dtype, name=name, data=pointer)
    return buffer, [tirx.Bind(pointer, tirx.address_of(element)), tirx.DeclBuffer(buffer, data=pointer)]


def prefetch(element: Any, near: bool = False) -> Any:
    """Ask for the cache line of an element, which may lie behind the end of its buffer, without waiting for it.

    `near`: into the first-level cache, else into the second.
    """
    from tvm import tirx

    read, level, data = integer(0), integer(3 if near else 2), integer(1)
    return tirx.Evaluate(tirx.call_llvm_intrin("void", "llvm.prefetch.p0", tirx.address_of(element), read, level, data))


def single(value: Any) -> Any:
    """A value as float32: weights may be stored in half precision, sums never are."""
    from tvm import tirx

    return value if str(value.ty.dtype) == "float32" else tirx.Cast("float32", value)


def copied(source: Any, to: Any, width: int) -> Any:
    """The first elements of a local buffer to another."""
    return vector(width, lambda lane: store(to, load(source, [lane]), [lane]))


def choose(condition: Any, then: Any, otherwise: Any) -> Any:
    """A branch; a condition known now chooses now."""
    from tvm import tirx

    if isinstance(condition, bool):
        return then if condition else otherwise
    return tirx.IfThenElse(condition, then, otherwise)


def flat_function(parameters: Sequence[Any], body: Any) -> Any:
    """A function over buffers whose body has no blocks."""
    from tvm import tirx

    return tirx.PrimFunc(list(parameters), body).with_attr({FLAT: 1, "tirx.noalias": True})
