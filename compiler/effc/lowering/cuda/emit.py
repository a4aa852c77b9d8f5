"""From scheduled TIR functions to CUDA C: device functions, and how each is started.

A kernel of the plan becomes one or more launches, which run in order; a later one sees what an earlier one wrote:

    before:   void kernel(x, y)    { AllocBuffer(t);  threads { t = f(x) }  threads { y = g(t) } }
    after:    __global__ void kernel_launch0(x, t)  { t = f(x) }        grid, block, arguments (0, 2)
              __global__ void kernel_launch1(y, t)  { y = g(t) }        grid, block, arguments (1, 2)

What lives between launches is a temporary of the kernel: the plan gives it a place in the arena on the device. So is what a launch itself
allocates in global memory, such as the extremes of `argmax`, whose result is their positions only: device code cannot allocate there. Code
that is in no loop of threads becomes a launch of one thread.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from effc.errors import InternalError
from effc.lowering.cuda.passes import device_passes, flat_passes, structured_passes
from effc.lowering.emit import Kernel
from effc.lowering.kernels.code import FLAT
from effc.lowering.kernels.cuda.code import ROLLED, TAGS
from effc.runtime.cuda.limits import refused
from effc.runtime.plan import Launch
from effc.runtime.tensors import dtype_named

__all__ = ["CudaKernel", "cuda_kernels", "cuda_source"]

_BOUNDS = re.compile(r"__launch_bounds__\((\d+)\)")
_ROLLED = re.compile(rf"^( *)for(?= \(int {ROLLED})", re.MULTILINE)
_RESIDENT = 512  # threads that a multiprocessor must have room for at least: 65536 registers, 128 for each
_MOST_BLOCKS = 16  # that any multiprocessor holds


@dataclass(frozen=True)
class CudaKernel(Kernel):
    """A kernel as launches, each with its device function; `function` is what they were cut from."""

    launches: tuple[tuple[Launch, Any], ...] = ()


def cuda_kernels(functions: Mapping[str, Any]) -> dict[str, Kernel]:
    """Cut scheduled functions into launches, by symbol."""
    import tvm

    named = {name: function.with_attr("global_symbol", name) for name, function in functions.items()}
    opaque = {name: function for name, function in named.items() if FLAT in (function.attrs or {})}
    blocks = tvm.IRModule({name: function for name, function in named.items() if name not in opaque})
    lowered = {variable.name_hint: function for variable, function in structured_passes()(blocks).functions.items()}
    return {name: _kernel(opaque.get(name, lowered.get(name)), name, synchronised=name in opaque) for name in named}


def cuda_source(launches: Mapping[str, Any], chip: Any) -> str:
    """CUDA C of device functions by symbol. `chip` is a tvm.target.Target."""
    import tvm

    module = tvm.IRModule({name: function.with_attr("target", chip) for name, function in launches.items()})
    source = str(tvm.get_global_func("target.build.cuda")(device_passes()(module), chip).inspect_source())
    return _ROLLED.sub(r"\1#pragma unroll 1\n\1for", _BOUNDS.sub(_with_registers, source))


def _with_registers(found: re.Match[str]) -> str:
    """Without a second bound, ptxas spills registers of small blocks so that more of them fit, although a thread may have 128."""
    threads = int(found[1])
    return f"__launch_bounds__({threads}, {min(_MOST_BLOCKS, max(1, _RESIDENT // threads))})"


def _kernel(function: Any, name: str, synchronised: bool) -> CudaKernel:
    """Cut one function.

    Args:
        function: over buffers, without blocks.
        name: its symbol.
        synchronised: the barriers between threads are in the code already.
    """
    import tvm
    from tvm import tirx

    buffers = list(function.params)
    # Operators that TVM writes by hand (scatter) leave the offsets of their buffers open; the plan's buffers have none.
    offsets = [
        tirx.Bind(buffer.elem_offset, tirx.IntImm(str(buffer.elem_offset.ty.dtype), 0))
        for buffer in buffers
        if isinstance(buffer.elem_offset, tirx.Var)
    ]
    temporaries: list[Any] = []
    launches: list[Any] = []
    alone: list[Any] = []

    def end() -> None:
        if alone:
            launches.append(_one_thread(list(alone)))
            alone.clear()

    for one in _flattened(function.body):
        if isinstance(one, tirx.AllocBuffer):
            temporaries.append(one.buffer)
            continue
        statement, own = _without_allocations(one)
        temporaries += own
        if _is_launch(statement):
            end()
            launches.append(statement)
        elif _holds_launch(statement):
            raise InternalError(f"the kernel {name} starts threads inside of a {type(statement).__name__}, which no plan can")
        else:
            alone.append(statement)
    end()
    places = [*buffers, *temporaries]
    made = []
    for index, body in enumerate(launches):
        used = _used(body, places)
        symbol = f"{name}_launch{index}"
        pointers = {at: _pointer(f"{places[at].name}_{at}", str(places[at].dtype)) for at in used}
        declared = [tirx.DeclBuffer(places[at], data=pointer) for at, pointer in pointers.items()]
        raw = tirx.PrimFunc(list(pointers.values()), tirx.SeqStmt([*offsets, *declared, body]))
        raw = raw.with_attr({"global_symbol": symbol, "tirx.noalias": True, "tirx.is_global_func": True})
        lowered = flat_passes(synchronised)(tvm.IRModule({symbol: raw}))[symbol]
        grid, block, shared = _extents(lowered.body)
        why = refused(grid, block)
        if why:
            raise InternalError(f"the launch {symbol} {why}; please report it with the model")
        parameters = [tag for tag, size in zip(TAGS, (*grid, *block), strict=True) if size > 1 or tag in ("blockIdx.x", "threadIdx.x")]
        lowered = lowered.with_attr({"calling_conv": 2, "tirx.kernel_launch_params": parameters})
        made.append((Launch(symbol, grid, block, shared, tuple(used)), lowered))
    sizes = tuple((tuple(int(size) for size in buffer.shape), str(buffer.dtype)) for buffer in temporaries)
    return CudaKernel(function, sizes, tuple(made))


def _pointer(name: str, dtype: str) -> Any:
    import tvm
    from tvm import tirx

    return tirx.Var(name, tvm.ir.PointerType(tvm.ir.PrimType(dtype), "global"))


def _flattened(statement: Any) -> list[Any]:
    from tvm import tirx

    if isinstance(statement, tirx.SeqStmt):
        return [inner for one in statement.seq for inner in _flattened(one)]
    return [statement]


def _without_allocations(statement: Any) -> tuple[Any, list[Any]]:
    """Code without the buffers that it allocates in global memory, and these buffers.

    They have room for what all threads of a launch store: in this scope TVM makes no buffer smaller by the loops of threads around it.
    """
    import tvm_ffi
    from tvm import tirx

    buffers: list[Any] = []

    def allocation(one: Any) -> Any:
        if str(one.buffer.scope()) != "global":
            return one
        buffers.append(one.buffer)
        return tirx.Evaluate(tirx.IntImm("int32", 0))

    return tvm_ffi.structural_map(statement, (tirx.AllocBuffer, allocation)), buffers


def _is_launch(statement: Any) -> bool:
    from tvm import tirx

    return isinstance(statement, tirx.AttrStmt) and statement.attr_key == "thread_extent"


def _holds_launch(statement: Any) -> bool:
    import tvm_ffi
    from tvm import tirx

    found: list[Any] = []
    tvm_ffi.structural_walk(statement, [(tirx.AttrStmt, lambda one: found.append(one) if _is_launch(one) else None)], order="post")
    return bool(found)


def _one_thread(statements: Sequence[Any]) -> Any:
    import tvm
    from tvm import tirx

    body = statements[0] if len(statements) == 1 else tirx.SeqStmt(list(statements))
    one = tirx.IntImm("int32", 1)
    for tag in ("threadIdx.x", "blockIdx.x"):
        variable = tirx.Var(tag.replace(".", "_"), "int32")
        index = tirx.IterVar(tvm.ir.Range(tirx.IntImm("int32", 0), one), variable, tirx.IterVar.ThreadIndex, tag)
        body = tirx.AttrStmt(index, "thread_extent", one, body)
    return body


def _used(body: Any, places: Sequence[Any]) -> list[int]:
    """Which buffers a launch reads or writes, by position."""
    import tvm_ffi
    from tvm import tirx
    from tvm.ir import TensorLoad

    found: set[Any] = set()

    def load(one: Any) -> None:
        found.add(one.source)

    def store(one: Any) -> None:
        found.add(one.buffer)

    tvm_ffi.structural_walk(body, [(TensorLoad, load), (tirx.BufferStore, store), (tirx.Var, found.add)], order="post")
    return [at for at, buffer in enumerate(places) if buffer in found]


def _extents(body: Any) -> tuple[tuple[int, int, int], tuple[int, int, int], int]:
    """Blocks, threads of a block, and bytes of shared memory that a launch must ask for."""
    import tvm_ffi
    from tvm import tirx

    extents = dict.fromkeys(TAGS, 1)
    shared = 0

    def extent(statement: Any) -> None:
        if statement.attr_key == "thread_extent":
            extents[str(statement.node.thread_tag)] = int(statement.value)

    def allocation(statement: Any) -> None:
        nonlocal shared
        if str(statement.buffer.scope()) == "shared.dyn":
            size = dtype_named(str(statement.buffer.dtype)).itemsize
            for one in statement.buffer.shape:
                size *= int(one)
            shared += size

    tvm_ffi.structural_walk(body, [(tirx.AttrStmt, extent), (tirx.AllocBuffer, allocation)], order="post")
    sizes = [extents[tag] for tag in TAGS]
    return (sizes[0], sizes[1], sizes[2]), (sizes[3], sizes[4], sizes[5]), shared
