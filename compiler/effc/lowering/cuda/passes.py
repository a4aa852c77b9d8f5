"""TVM's passes between a scheduled function and what its CUDA code generator takes, in the order of TVM's own pipeline for GPUs."""

from __future__ import annotations

import math
from typing import Any

from effc.errors import InternalError
from effc.lowering.c99.expressions import intrinsic_of
from effc.lowering.expansion import expansion, local_variables
from effc.lowering.kernels.cuda.code import WARP
from effc.lowering.relax_edit import operator_name

# What effc's TIR asks LLVM for, by the types of result and operand, and how CUDA calls it.
_INTRINSICS = {
    ("llvm.nearbyint", "float32", "float32"): "rintf",
    ("llvm.rint", "float32", "float32"): "rintf",
    ("llvm.nearbyint", "float64", "float64"): "rint",
    ("llvm.rint", "float64", "float64"): "rint",
    ("llvm.lrint", "int32", "float32"): "__float2int_rn",
    ("llvm.lrint", "int32", "float64"): "__double2int_rn",
}

_CONTRACTED = {"float32": "fmaf", "float64": "fma"}

__all__ = ["device_passes", "flat_passes", "structured_passes"]


def structured_passes() -> Any:
    """Functions over blocks lose them; loops that are bound to threads become launches."""
    import tvm
    from tvm import s_tir

    passes = s_tir.transform
    return tvm.transform.Sequential(
        [
            passes.CanonicalizeLoop(),
            passes.LowerCrossThreadReduction(),
            passes.LowerInitBlock(),
            passes.PlanAndUpdateBufferAllocationLocation(),
            passes.ConvertBlocksToOpaque(),
            passes.LiftThreadBinding(),
            passes.ManifestSharedMemoryLocalStage(),
            passes.CompactBufferAllocation(),
            passes.LowerAutoCopy(),
            passes.UnifyThreadBinding(),
            passes.LowerMatchBuffer(),
            passes.StmtSimplify(),
            passes.InjectPermutedLayout(),
            passes.AnnotateIrregularLoop(),
            passes.InjectSoftwarePipeline(),
            passes.TransformMmaBufferLayout(),
            passes.LowerOpaqueBlock(),
            _rolled(),
        ]
    )


def flat_passes(synchronised: bool) -> Any:
    """One launch, a function over pointers.

    There is no elimination of common subexpressions: the code generator must see an index whole to know that a vector of 16 bytes is
    aligned, and nvcc does it anyway.

    Args:
        synchronised: barriers are there already; else they are added where threads read what others wrote to shared memory.
    """
    import tvm
    from tvm import s_tir, tirx

    passes = [
        tirx.transform.FlattenBuffer(),
        tirx.transform.BF16ComputeLegalize(),
        tirx.transform.NarrowDataType(32),
        expansion(),
        _own_intrinsics(),
        *([] if synchronised else [s_tir.transform.LoopPartition()]),
        tirx.transform.VectorizeLoop(True),
        *([] if synchronised else [s_tir.transform.InjectVirtualThread(), s_tir.transform.InjectDoubleBuffer()]),
        tirx.transform.StorageRewrite(),
        tirx.transform.UnrollLoop(),
        local_variables("local"),
        *([] if synchronised else [s_tir.transform.HoistIfThenElse(), s_tir.transform.RenormalizeSplitPattern()]),
        tirx.transform.StmtSimplify(),
        tirx.transform.RemoveNoOp(),
        s_tir.transform.RewriteUnsafeSelect(),
    ]
    if not synchronised:
        passes += [
            s_tir.transform.ThreadSync("shared"),
            s_tir.transform.ThreadSync("shared.dyn"),
            s_tir.transform.ThreadSync("warp"),
            s_tir.transform.InferFragment(),
        ]
    passes += [s_tir.transform.MergeSharedMemoryAllocations(), _contracted()]
    return tvm.transform.Sequential(passes)


def device_passes() -> Any:
    """The last ones, which know the architecture."""
    import tvm
    from tvm import s_tir, tirx

    return tvm.transform.Sequential(
        [
            s_tir.transform.LowerThreadAllreduce(),
            _whole_warps(),
            tirx.transform.BF16StorageLegalize(),
            tirx.transform.LowerWarpMemory(),
            tirx.transform.StmtSimplify(),
            tirx.transform.LowerIntrin(),
        ]
    )


def _rolled() -> Any:
    """Loops that dlight would write out are left to nvcc (`#pragma unroll`): the same code, from a tenth of the text."""
    import tvm_ffi
    from tvm import tirx

    def rolled(statement: Any, mutator: Any) -> Any:
        if statement.attr_key == "pragma_unroll_explicit":
            return tirx.AttrStmt(statement.node, statement.attr_key, tirx.IntImm("int32", 0), mutator.mutate(statement.body))
        return mutator.default_mutate(statement)

    def change(function: Any, module: Any, context: Any) -> Any:
        return function.with_body(tvm_ffi.structural_mutate(function.body, [(tirx.AttrStmt, rolled)]))

    return tirx.transform.prim_func_pass(change, opt_level=0, name="Rolled")


def _own_intrinsics() -> Any:
    """CUDA's functions in the place of LLVM's."""
    import tvm_ffi
    from tvm import tirx
    from tvm.ir import Call

    def named(call: Any) -> Any:
        if operator_name(call) != "tirx.call_llvm_pure_intrin":
            return call
        name, operand = intrinsic_of(call), call.args[1]
        found = _INTRINSICS.get((name, str(call.ty.dtype), str(operand.ty.dtype)))
        if found is None:
            raise InternalError(f"{name} of {operand.ty.dtype} has no form in CUDA C")
        return tirx.call_pure_extern(str(call.ty.dtype), found, operand)

    def change(function: Any, module: Any, context: Any) -> Any:
        return function.with_body(tvm_ffi.structural_map(function.body, (Call, named)))

    return tirx.transform.prim_func_pass(change, opt_level=0, name="OwnIntrinsics")


def _contracted() -> Any:
    """`sum = sum + a * b` becomes `sum = fma(a, b, sum)`, rounded once.

    nvcc is told to contract nothing itself (`nvcc.compile_cubin`): which products it would round, nobody could say, and code that computes
    one value twice could get two. So the sums of products that nearly all time goes into are contracted here, on a GPU and wherever
    else this code is run, and all else is rounded as it is written.
    """
    import tvm_ffi
    from tvm import tirx
    from tvm.ir import TensorLoad

    def summed(statement: Any) -> Any:
        value = statement.value
        function = _CONTRACTED.get(_scalar(value)) if isinstance(value, tirx.Add) else None
        if function is None:
            return statement
        for old, product in ((value.a, value.b), (value.b, value.a)):
            own = isinstance(old, TensorLoad) and old.source.same_as(statement.buffer)
            if own and isinstance(product, tirx.Mul) and _same(old.indices, statement.indices):
                fused = tirx.call_pure_extern(str(value.ty.dtype), function, product.a, product.b, old)
                return tirx.BufferStore(statement.buffer, fused, list(statement.indices))
        return statement

    def change(function: Any, module: Any, context: Any) -> Any:
        return function.with_body(tvm_ffi.structural_map(function.body, (tirx.BufferStore, summed)))

    return tirx.transform.prim_func_pass(change, opt_level=0, name="Contracted")


def _scalar(value: Any) -> str:
    """The type of one lane of a value."""
    return str(value.ty.dtype).partition("x")[0]


def _same(some: Any, others: Any) -> bool:
    import tvm_ffi

    return len(some) == len(others) and all(tvm_ffi.structural_equal(one, other) for one, other in zip(some, others, strict=True))


def _whole_warps() -> Any:
    """Shuffles name all lanes of their warp: which ones `__activemask()` finds together, CUDA leaves open.

    All come to what is in no branch. In a branch, and in blocks of broken warps, the call stays.
    """
    import tvm_ffi
    from tvm import tirx
    from tvm.ir import Call

    def branch(statement: Any, mutator: Any) -> Any:
        return statement

    def mask(call: Any, mutator: Any) -> Any:
        if operator_name(call) == "tirx.tvm_warp_activemask":
            return tirx.const(0xFFFFFFFF, "uint32")
        return mutator.default_mutate(call)

    def change(function: Any, module: Any, context: Any) -> Any:
        threads = {}

        def extent(statement: Any) -> None:
            if statement.attr_key == "thread_extent" and str(statement.node.thread_tag).startswith("threadIdx"):
                threads[str(statement.node.thread_tag)] = int(statement.value)

        tvm_ffi.structural_walk(function.body, [(tirx.AttrStmt, extent)], order="post")
        if math.prod(threads.values()) % WARP:
            return function
        return function.with_body(tvm_ffi.structural_mutate(function.body, [(tirx.IfThenElse, branch), (Call, mask)]))

    return tirx.transform.prim_func_pass(change, opt_level=0, name="WholeWarps")
