"""What device kernels are made of beside the constructors of `kernels.code`: launches, memory of a block, registers, shuffles.

A device function is a sequence of launches and of the temporaries in the device's memory that they share. A launch is a grid of blocks of
threads, each with its number bound; a later launch sees what an earlier one stored. Barriers are written out: nothing adds any.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from effc.lowering.kernels.code import Index, choose, integer, load, loop, sequence, single, store, vector

__all__ = [
    "ROLLED",
    "TAGS",
    "WARP",
    "cleared",
    "dynamic_places",
    "every",
    "launch",
    "per_load",
    "read",
    "registers",
    "rolled",
    "shared",
    "shuffled",
    "shuffled_up",
    "shuffled_xor",
    "stored_dtype",
    "synchronise",
    "temporary",
    "when",
    "widened",
]

TAGS = ("blockIdx.x", "blockIdx.y", "blockIdx.z", "threadIdx.x", "threadIdx.y", "threadIdx.z")
WARP = 32
ROLLED = "rolled"  # what the variables of loops are called that stay loops
_LOAD = 16  # bytes of the widest load of a thread
_ALL = 0xFFFFFFFF


def launch(grid: Sequence[int], threads: int, body: Callable[[Sequence[Any], Any], Any]) -> Any:
    """A grid of blocks of `threads`; `body` makes one thread's statement from the block's place in the grid and the thread's number."""
    from tvm import tirx

    blocks = [tirx.Var(f"block_{axis}", "int32") for axis, _ in zip("xyz", grid, strict=False)]
    thread = tirx.Var("thread", "int32")
    statement = _bound(thread, threads, "threadIdx.x", body(blocks, thread))
    for axis, number, size in reversed(list(zip("xyz", blocks, grid, strict=False))):
        statement = _bound(number, size, f"blockIdx.{axis}", statement)
    return statement


def _bound(variable: Any, size: int, tag: str, body: Any) -> Any:
    import tvm
    from tvm import tirx

    axis = tirx.IterVar(tvm.ir.Range(integer(0), integer(size)), variable, tirx.IterVar.ThreadIndex, tag)
    return tirx.AttrStmt(axis, "thread_extent", integer(size), body)


def temporary(shape: Sequence[int], name: str, dtype: str = "float32") -> Any:
    """Memory of the device that launches of a function share."""
    from tvm import tirx

    return tirx.decl_buffer(tuple(shape), dtype, name=name)


def shared(shape: Sequence[int], name: str, dtype: str = "float32") -> Any:
    """Memory that the threads of a block share."""
    from tvm import tirx

    return tirx.decl_buffer(tuple(shape), dtype, name=name, scope="shared")


def registers(width: int, name: str, dtype: str = "float32") -> Any:
    """A thread's own: only accessed at places that are known once loops are unrolled."""
    from tvm import tirx

    return tirx.decl_buffer((width,), dtype, name=name, scope="local")


def synchronise() -> Any:
    """All threads of a block arrive here before any goes on, and see what the others stored."""
    from tvm import tirx

    return tirx.Evaluate(tirx.op.tvm_storage_sync("shared"))


def cleared(buffer: Any) -> Any:
    """Zeros in all of a register buffer."""
    from tvm import tirx

    zero = tirx.const(0, str(buffer.dtype))
    return every(int(buffer.shape[0]), lambda at: store(buffer, zero, [at]))


def every(count: int, body: Callable[[int], Any]) -> Any:
    """Statements written out one after another."""
    return sequence([body(number) for number in range(count)])


def rolled(extent: Index, body: Callable[[Any], Any]) -> Any:
    """A loop that nvcc does not write out: as many loads are under way as its body asks for; registers would not hold more."""
    return loop(extent, body, name=ROLLED)


def when(condition: Any, then: Any) -> Any:
    from tvm import tirx

    return choose(condition, then, tirx.Evaluate(integer(0)))


def shuffled(value: Any, lane: Index) -> Any:
    """The value that another lane of the warp holds."""
    from tvm import tirx

    return tirx.op.tvm_warp_shuffle(_all(), value, lane, integer(WARP), integer(WARP))


def shuffled_up(value: Any, by: int) -> Any:
    """The value of the lane that many in front; of the first lanes their own."""
    from tvm import tirx

    return tirx.op.tvm_warp_shuffle_up(_all(), value, integer(by), integer(WARP), integer(WARP))


def shuffled_xor(value: Any, by: int) -> Any:
    """The value of the lane whose number differs in the bits of `by`."""
    from tvm import tirx

    return tirx.op.tvm_warp_shuffle_xor(_all(), value, integer(by), integer(WARP), integer(WARP))


def _all() -> Any:
    from tvm import tirx

    return tirx.const(_ALL, "uint32")


def per_load(dtype: str) -> int:
    """Elements of the widest load."""
    from effc.runtime.tensors import dtype_named

    return _LOAD // dtype_named(dtype).itemsize


def read(buffer: Any, indices: Sequence[Index], into: Any) -> Any:
    """One wide load: all of a register buffer from successive elements."""
    *outer, first = indices
    return vector(int(into.shape[0]), lambda lane: store(into, load(buffer, [*outer, first + lane]), [lane]))


def stored_dtype(dtype: str) -> str:
    """The type in which a kernel reads a stored operand: bfloat16 as the words that it is, which TVM would copy by way of float32."""
    return "uint16" if dtype == "bfloat16" else dtype


def widened(value: Any, dtype: str) -> Any:
    """An element that was read in `stored_dtype`, as float32."""
    from tvm import tirx

    if dtype == "bfloat16":
        return tirx.reinterpret("float32", tirx.shift_left(tirx.Cast("uint32", value), tirx.const(16, "uint32")))
    return single(value)


def dynamic_places(outer: Sequence[int], number: Any) -> list[Any]:
    """The index along outer axes of a row that is counted through all of them."""
    found: list[Any] = []
    for axis, size in reversed(list(enumerate(outer))):
        if size == 1:
            found.append(integer(0))
            continue
        leading = all(one == 1 for one in outer[:axis])
        found.append(number if leading else number % size)
        number = number // size
    return list(reversed(found))
