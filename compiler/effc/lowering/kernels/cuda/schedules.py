"""Schedules of whatever no rule of `kernels.cuda` takes: those that TVM brings for GPUs (`tvm.s_tir.dlight`), the first that applies.

    matmul       products and convolutions (as products, by an index map) in tiles through shared memory; never on tensor cores
    gemv         products of one row, the depth shared out among the threads of a block
    reduction    sums, extremes and normalisations over more than 64 elements, by the threads of a block together
    generic      one thread for each element of the result, which does all of its sum

dlight looks at loops around single blocks only. Blocks within blocks, such as the uneven windows of an adaptive pool, have their outermost
ones shared out here (`_Outermost`), also to one thread for each element.

A schedule changes the order of sums, not what is computed. What none takes keeps its loops, which then run in a single thread
(`emit`): slow, and right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from effc.lowering.chip import tvm_target
from effc.lowering.kernels.cuda.code import TAGS
from effc.lowering.kernels.implementation import Implementation
from effc.runtime.cuda.limits import refused
from effc.targets import Target

__all__ = ["ALONE", "scheduled"]

_SHORT = 64  # elements of a sum that one thread does: a block would wait longer for its threads than it adds
_THREADS = 256  # of a block where each has an element of its own
ALONE = "single-thread"  # the family of what no schedule takes


def scheduled(function: Any, target: Target) -> Implementation:
    """A function over blocks with all of its loops that can be bound to threads."""
    import tvm
    from tvm import s_tir

    chip = tvm_target(target)
    short = _longest_sum(function) <= _SHORT
    for family, rule in _rules():
        if short and family in ("gemv", "reduction"):
            continue
        # TVM 0.27.0.post1 ends the process (a segmentation fault in Tensorize, outside of effc as well) where dlight puts a product on
        # tensor cores. effc's half-precision products, float32 by half with the input widened, would not get there; int8 is untried.
        marked = function.with_attr({"global_symbol": "main", "target": chip, "dlight.do_not_tensorize": 1})
        try:
            with chip:
                found = rule.apply(marked, chip, False)
        except (s_tir.ScheduleError, tvm.error.InternalError, AssertionError, IndexError, KeyError, ValueError, TypeError, AttributeError):
            continue  # dlight's rules assume much of a function and fail in many ways where it is another: the next rule has its turn
        for sch in found if isinstance(found, list) else [found] if found is not None else []:
            result = sch.mod["main"]
            if _fits(result):
                return Implementation(result.without_attr("global_symbol").without_attr("dlight.do_not_tensorize"), family)
    return Implementation(function, ALONE, note="no schedule for GPUs takes it: a single thread computes it")


def _rules() -> Sequence[tuple[str, Any]]:
    from tvm.s_tir.dlight import gpu

    return (
        ("matmul", gpu.Matmul()),
        ("gemv", gpu.GEMV()),
        ("reduction", gpu.Reduction()),
        ("reduction", gpu.GeneralReduction()),
        ("generic", gpu.Fallback()),
        ("generic", _Outermost()),
    )


class _Outermost:
    """A thread for each element of the outermost blocks, whatever loops and blocks an element consists of."""

    def apply(self, function: Any, chip: Any, tunable: bool) -> Any:
        """As dlight's rules have it; None where a block is more than elements, each with its own sum. That they depend on no other, TVM
        makes sure of when it binds their loops."""
        from tvm import s_tir, tirx

        sch = s_tir.Schedule(function)
        for block in sch.get_child_blocks(sch.get_sblock("root")):
            loops, kinds = sch.get_loops(block), [axis.iter_type for axis in sch.get(block).iter_vars]
            elements = kinds.count(tirx.IterVar.DataPar)
            summed = len(kinds) - elements
            if not elements or len(loops) != len(kinds) or kinds[elements:] != [tirx.IterVar.CommReduce] * summed:
                return None
            blocks, threads = sch.split(sch.fuse(*loops[:elements]), factors=[None, _THREADS])
            sch.bind(blocks, "blockIdx.x")
            sch.bind(threads, "threadIdx.x")
        return sch


def _longest_sum(function: Any) -> int:
    """Elements that one of its sums, or another reduction, goes over.

    One whose length differs from element to element (windows of an adaptive pool) counts as short: the threads of a block can only share
    out sums of one length.
    """
    import tvm_ffi
    from tvm import s_tir, tirx

    longest = 1

    def block(one: Any) -> None:
        nonlocal longest
        extents = [var.dom.extent for var in one.iter_vars if var.iter_type == tirx.IterVar.CommReduce]
        if all(isinstance(extent, tirx.IntImm) for extent in extents):
            longest = max(longest, math.prod(map(int, extents)))

    tvm_ffi.structural_walk(function.body, [(s_tir.SBlock, block)], order="post")
    return longest


def _fits(function: Any) -> bool:
    """Whether everything stands in loops of threads, none of which stands in a plain loop (that would be a loop of launches), and there
    are no more of them than a launch may have."""
    from tvm import s_tir, tirx

    def fits(statement: Any) -> bool:
        if isinstance(statement, tirx.For):
            return bool(statement.kind == tirx.ForKind.THREAD_BINDING) and not _too_many(statement)
        if isinstance(statement, s_tir.SBlockRealize):
            return fits(statement.block.body)
        if isinstance(statement, tirx.SeqStmt):
            return all(fits(one) for one in statement.seq)
        return False

    return fits(function.body)


def _too_many(launch: Any) -> str:
    """Why no GPU starts a nest of loops of threads; empty where all do."""
    import tvm_ffi
    from tvm import tirx

    sizes = dict.fromkeys(TAGS, 1)

    def size(loop: Any) -> None:
        if loop.kind == tirx.ForKind.THREAD_BINDING and str(loop.thread_binding.thread_tag) in sizes:
            # One that is known in the launch only stands as none, which is refused.
            sizes[str(loop.thread_binding.thread_tag)] = int(loop.extent) if isinstance(loop.extent, tirx.IntImm) else 0

    tvm_ffi.structural_walk(launch, [(tirx.For, size)], order="post")
    extents = list(sizes.values())
    return refused(extents[:3], extents[3:])
