"""Reductions by themselves: threads over independent results; vectors over results where those lie side by side in memory.

A sum over the last axis stays in order; over an earlier axis (columns) the results of a stretch are summed together, row by row.
"""

from __future__ import annotations

from typing import Any

from effc.lowering.kernels.nest import Nest, parallel_outer, work
from effc.targets import Target

__all__ = ["reduce_rows"]


def reduce_rows(sch: Any, nest: Nest, target: Target) -> None:
    """Schedule one reduction block that has its own loops."""
    amount = work(nest)
    loops = sch.get_loops(nest.handle)
    spatial = [loop for loop, kind in zip(loops, nest.kinds, strict=True) if kind == "S"]
    reduction = [loop for loop, kind in zip(loops, nest.kinds, strict=True) if kind == "R"]
    if not spatial:
        return
    lane = spatial[-1]
    if not _columns(nest) or int(sch.get(lane).extent) < target.lanes:
        sch.reorder(*spatial, *reduction)
        parallel_outer(sch, spatial, amount)
    else:
        # A stretch of results that LLVM's vectors walk along, once for every summand.
        extent = int(sch.get(lane).extent)
        width = next((count * target.lanes for count in (16, 4, 1) if extent % (count * target.lanes) == 0), extent)
        stretch, lane = sch.split(lane, [None, width])
        sch.reorder(*spatial[:-1], stretch, *reduction, lane)
        parallel_outer(sch, [*spatial[:-1], stretch], amount)
    sch.decompose_reduction(nest.handle, reduction[0])


def _columns(nest: Nest) -> bool:
    """Whether neighbours in memory belong to different results: the largest input's last index is the last spatial variable."""
    last = next(variable for variable, kind in zip(reversed(nest.variables), reversed(nest.kinds), strict=True) if kind == "S")
    regions = [region for region in nest.block.reads if len(region.region)]
    return bool(regions) and max(regions, key=_size).region[-1].min.same_as(last)


def _size(region: Any) -> int:
    result = 1
    for size in region.source.shape:
        result *= int(size)
    return result
