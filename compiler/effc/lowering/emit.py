"""From scheduled TIR functions to an object file: kernels with plain C signatures and one entry that calls them in order.

Every kernel is `int32 kernel(const T *read..., T *written..., T *temporary...)`. What a kernel allocates outside of its parallel loops
becomes a further argument, so that no inference calls an allocator for it; the plan gives it a place in the arena. The entry is
`void entry(uint8 *arena, const uint8 *parameters, [uint8 *states,] const void *input..., void *output..., int32 *status)` and holds all
addresses as constants. A kernel whose own status is not 0 (no threads could be started) is the last one that runs; `status` is its step,
counted from 1.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effc.lowering.expansion import expansion, local_variables
from effc.lowering.half_floats import needs_bits, with_bits
from effc.lowering.kernels.code import FLAT
from effc.lowering.not_equal import with_nan_unequal
from effc.runtime.plan import Plan, Step
from effc.runtime.tensors import dtype_named

__all__ = ["MICROCONTROLLER_STACK", "Kernel", "compiled_code", "kernels", "object_code"]

_BLOCKS = {"arena": "arena", "parameter": "parameters", "state": "states"}  # the entry's argument that holds the buffers of a room
_STACK = 1023  # bytes of the largest allocation that stays in a kernel; for more, the code generator asks an allocator
MICROCONTROLLER_STACK = 64  # the same where the stack is precious: what registers may hold, a row of a tile


@dataclass(frozen=True)
class Kernel:
    """A TIR function with pointer arguments, and (shape, dtype) of the temporaries at their end."""

    function: Any
    temporaries: tuple[tuple[tuple[int, ...], str], ...]


def kernels(functions: Mapping[str, Any], stack: int = _STACK) -> dict[str, Kernel]:
    """Lower scheduled functions as far as all CPUs agree.

    Args:
        functions: by symbol.
        stack: bytes of the largest allocation that stays in its kernel.
    """
    import tvm

    named = {name: function.with_attr("global_symbol", name) for name, function in functions.items()}
    opaque = {name: function for name, function in named.items() if FLAT in (function.attrs or {})}
    blocks = tvm.IRModule({name: function for name, function in named.items() if name not in opaque})
    opaque |= {variable.name_hint: function for variable, function in _structured_passes()(blocks).functions.items()}
    raw = {name: _with_pointers(opaque[name], name) for name in named}
    flat = _flat_passes()(tvm.IRModule(raw))
    return {variable.name_hint: _with_temporaries_as_arguments(function, stack) for variable, function in flat.functions.items()}


def object_code(compiled: Mapping[str, Kernel], plan: Plan, target: Any, external: Collection[str] = ()) -> tuple[bytes, bytes]:
    """Two object files: the kernels that the plan calls, and its entry.

    They are compiled apart because the code generator tells LLVM that different buffers never share memory. That holds inside a kernel, but
    not between kernels: the arena is used again and again. Were kernels inlined into the entry, LLVM would reorder their accesses.

    Args:
        compiled: kernels by symbol.
        plan: with all addresses; each step's writes end with the kernel's temporaries.
        target: a tvm.target.Target.
        external: kernels that are defined elsewhere.
    """
    functions = {step.kernel: compiled[step.kernel].function for step in (*plan.steps, *plan.fresh) if step.kernel not in external}
    return compiled_code(functions, target), compiled_code({plan.entry: _entry(plan)}, target)


def compiled_code(functions: Mapping[str, Any], target: Any) -> bytes:
    """An object file of functions with pointer arguments."""
    import tvm
    from tvm import tirx

    passes = tirx.transform
    lowering = tvm.transform.Sequential([passes.BindTarget(target), passes.LowerTVMBuiltin(), passes.LowerIntrin()])
    functions = {name: with_nan_unequal(function) for name, function in functions.items()}
    if needs_bits(target):
        functions = {name: with_bits(function) for name, function in functions.items()}
    module = lowering(tvm.IRModule(dict(functions)))
    built = tvm.get_global_func("target.build.llvm")(module, target)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.o"
        built.write_to_file(str(path))
        return path.read_bytes()


def _structured_passes() -> Any:
    import tvm
    from tvm import s_tir

    passes = s_tir.transform
    return tvm.transform.Sequential(
        [
            passes.CanonicalizeLoop(),
            passes.LowerInitBlock(),
            passes.PlanAndUpdateBufferAllocationLocation(),
            passes.ConvertBlocksToOpaque(),
            passes.CompactBufferAllocation(),
            passes.LowerMatchBuffer(),
            passes.StmtSimplify(),
            passes.LowerOpaqueBlock(),
        ]
    )


def _flat_passes() -> Any:
    import tvm
    from tvm import s_tir, tirx

    return tvm.transform.Sequential(
        [
            tirx.transform.FlattenBuffer(),
            tirx.transform.BF16ComputeLegalize(),
            tirx.transform.NarrowDataType(32),
            expansion(),
            s_tir.transform.LoopPartition(),
            tirx.transform.VectorizeLoop(True),
            tirx.transform.StorageRewrite(),
            tirx.transform.UnrollLoop(),
            local_variables(),  # before the passes that simplify: they put all earlier bindings into each
            s_tir.transform.HoistIfThenElse(),
            s_tir.transform.RenormalizeSplitPattern(),
            tirx.transform.StmtSimplify(),
            tirx.transform.RemoveNoOp(),
            s_tir.transform.RewriteUnsafeSelect(),
            tirx.transform.CommonSubexprElim(),
            tirx.transform.BF16StorageLegalize(),
        ]
    )


def _pointer(name: str, dtype: str) -> Any:
    import tvm
    from tvm import tirx

    return tirx.Var(name, tvm.ir.PointerType(tvm.ir.PrimType(dtype), "global"))


def _with_pointers(function: Any, name: str) -> Any:
    """Buffer arguments become plain pointers, and the function returns 0."""
    import tvm
    from tvm import tirx

    pointers = [_pointer(f"{buffer.name}_pointer", str(buffer.dtype)) for buffer in function.params]
    declared = [tirx.DeclBuffer(buffer, data=pointer) for buffer, pointer in zip(function.params, pointers, strict=True)]
    # Operators that TVM writes by hand (scatter) leave the offsets of their buffers open; the plan's buffers have none.
    open_offsets = [buffer.elem_offset for buffer in function.params if isinstance(buffer.elem_offset, tirx.Var)]
    offsets = [tirx.Bind(offset, tirx.IntImm(str(offset.ty.dtype), 0)) for offset in open_offsets]
    body = tirx.SeqStmt([*offsets, *declared, function.body, tirx.stmt.Return(tirx.IntImm("int32", 0))])
    # A parallel loop makes the code generator return the thread pool's status, which is an int32.
    return tirx.PrimFunc(pointers, body, ret_type=tvm.ir.PrimType("int32")).with_attr({"global_symbol": name, "tirx.noalias": True})


def _with_temporaries_as_arguments(function: Any, stack: int) -> Kernel:
    from tvm import tirx

    statements = list(function.body.seq) if isinstance(function.body, tirx.SeqStmt) else [function.body]
    body, end = [], statements.pop()
    pointers, temporaries = [], []
    for statement in statements:
        if isinstance(statement, tirx.AllocBuffer) and _size(statement.buffer) > stack:
            buffer = statement.buffer
            pointers.append(_pointer(f"{buffer.name}_temporary", str(buffer.dtype)))
            # Buffers that are only accessed in vectors have become buffers of vectors (`float32x16`).
            element, _, lanes = str(buffer.dtype).partition("x")
            shape = tuple(int(size) for size in buffer.shape)
            temporaries.append(((*shape, int(lanes)) if lanes else shape, element))
            statement = tirx.DeclBuffer(buffer, data=pointers[-1])
        body.append(statement)
    if body:
        whole = _on_cpu(tirx.SeqStmt(body) if len(body) > 1 else body[0])
        function = tirx.PrimFunc(
            [*function.params, *pointers], tirx.SeqStmt([whole, end]), ret_type=function.ret_type, attrs=function.attrs
        )
    return Kernel(function, tuple(temporaries))


def _size(buffer: Any) -> int:
    """Bytes. Small buffers are registers, when LLVM finds that they fit. TVM allocates them in front of everything but parallel loops."""
    element, _, lanes = str(buffer.dtype).partition("x")
    return math.prod(int(size) for size in buffer.shape) * int(lanes or 1) * dtype_named(element).itemsize


def _on_cpu(body: Any) -> Any:
    """LowerTVMBuiltin wants to know the device of the allocations that are left (inside parallel loops)."""
    from tvm import tirx

    for key, value in (("device_id", 0), ("device_type", 1)):
        body = tirx.AttrStmt("default", key, tirx.IntImm("int32", value), body)
    return body


def _entry(plan: Plan) -> Any:
    import tvm
    from tvm import tirx

    arguments = ["arena", "parameters", *(["states"] if plan.state_bytes else [])]
    owner: dict[str, tuple[str, int]] = {}
    for room, prefix in (("input", "in"), ("output", "out")):
        for index, buffer in enumerate(plan.in_room(room)):  # type: ignore[arg-type]
            arguments.append(f"{prefix}{index}")
            owner[buffer.name] = (arguments[-1], 0)
    for buffer in plan.buffers:
        if buffer.room in _BLOCKS:
            owner[buffer.name] = (_BLOCKS[buffer.room], buffer.offset)
    kinds = {name: "int32" if name == "states" else "uint8" for name in arguments}  # the clock is read as a word
    variables = {name: _pointer(name, kind) for name, kind in kinds.items()}
    blocks = {name: tirx.decl_buffer((1,), kind, name=f"{name}_block") for name, kind in kinds.items()}

    def element(name: str) -> Any:
        block, offset = owner[name]
        return tirx.BufferLoad(blocks[block], [tirx.IntImm("int64", offset // dtype_named(kinds[block]).itemsize)])

    def addresses(names: Sequence[str]) -> list[Any]:
        return [tirx.address_of(element(name)) for name in names]

    body = [tirx.DeclBuffer(blocks[name], data=variables[name]) for name in arguments]
    status_variable = _pointer("status", "int32")
    status = tirx.decl_buffer((1,), "int32", name="status_word")
    first, zero = tirx.IntImm("int64", 0), tirx.IntImm("int32", 0)
    body += [tirx.DeclBuffer(status, data=status_variable), tirx.BufferStore(status, zero, [first])]

    def called(steps: Sequence[Step], start: int) -> list[Any]:
        found = []
        for index, step in enumerate(steps, start):
            call = tirx.call_extern("int32", step.kernel, *addresses(step.reads), *addresses(step.writes))
            number = tirx.IntImm("int32", index + 1)
            run = tirx.BufferStore(status, tirx.Select(call == zero, zero, number), [first])
            found.append(tirx.IfThenElse(tirx.BufferLoad(status, [first]) == zero, run, None))
        return found

    if plan.fresh:
        body += called(plan.steps[:1], 0)
        whole, moving = tirx.SeqStmt(called(plan.fresh, len(plan.steps))), tirx.SeqStmt(called(plan.steps[1:], 1))
        body.append(tirx.IfThenElse(element(plan.clock) == tirx.IntImm("int32", 1), whole, moving))
    else:
        body += called(plan.steps, 0)
    body.append(tirx.stmt.Return(zero))  # the code generator knows no other; the status is in its argument
    pointers = [*(variables[name] for name in arguments), status_variable]
    function = tirx.PrimFunc(pointers, tirx.SeqStmt(body), ret_type=tvm.ir.PrimType("int32"))
    return function.with_attr({"global_symbol": plan.entry})
