"""What any function gets when no other rule takes it: inlining, threads over outer loops, vectors over rows, each block by itself."""

from __future__ import annotations

from typing import Any

from effc.lowering.kernels.elementwise import spread
from effc.lowering.kernels.nest import Nest, inline_producers, nests, parallel_outer, plain, split_lanes, work
from effc.targets import Target

__all__ = ["apply", "reduce_rows", "rest"]


def apply(sch: Any, target: Target) -> bool:
    """Schedule anything; blocks that are neither spatial nor a reduction stay as they are."""
    inline_producers(sch)
    rest(sch, target)
    return True


def rest(sch: Any, target: Target) -> None:
    """Schedule the blocks that still have their own plain loops, each by itself; the others were scheduled before."""
    from tvm.s_tir import ScheduleError

    for nest in nests(sch):
        if "O" in nest.kinds or 0 in nest.extents or not nest.kinds or not plain(sch, nest):
            continue
        try:
            if nest.spatial:
                spread(sch, nest, target)
            else:
                reduce_rows(sch, nest, target)
        except ScheduleError:  # such a block keeps its plain loops, which are correct
            continue


def reduce_rows(sch: Any, nest: Nest, target: Target) -> None:
    """A reduction by itself: threads over its outer spatial loops, vectors over the last spatial one where results lie side by side."""
    amount = work(nest)
    loops = sch.get_loops(nest.handle)
    spatial = [loop for loop, kind in zip(loops, nest.kinds, strict=True) if kind == "S"]
    reduction = [loop for loop, kind in zip(loops, nest.kinds, strict=True) if kind == "R"]
    if not spatial:
        return
    sch.reorder(*spatial, *reduction)
    extent = int(sch.get(spatial[-1]).extent)
    if len(spatial) > 1 and extent % target.lanes == 0:
        outer, lane = sch.split(spatial[-1], [None, target.lanes])
        sch.reorder(*spatial[:-1], outer, *reduction, lane)
        parallel_outer(sch, [*spatial[:-1], outer], amount)
        sch.decompose_reduction(nest.handle, reduction[0])
        split_lanes(sch, lane, target.lanes)
    else:
        parallel_outer(sch, spatial, amount)
        sch.decompose_reduction(nest.handle, reduction[0])
