"""Functions without reductions: everything is computed where it is stored, rows in vectors, the outer loops over threads."""

from __future__ import annotations

from typing import Any

from effc.lowering.kernels.nest import Nest, calls, inline_producers, is_constant, nests, parallel_outer, split_lanes, work
from effc.targets import Target

__all__ = ["apply", "spread"]


def apply(sch: Any, target: Target) -> bool:
    """Schedule a function all of whose blocks are spatial."""
    if not all(nest.spatial for nest in nests(sch)):
        return False
    inline_producers(sch)
    for nest in nests(sch):
        spread(sch, nest, target)
    return True


def spread(sch: Any, nest: Nest, target: Target) -> None:
    """Threads over the outer loops and vectors over the last one of a spatial block that has its own loops."""
    loops = sch.get_loops(nest.handle)
    if not loops:
        return
    amount = work(nest)
    # Branches and calls of the mathematics library have no vector form here: their loops are better left to LLVM.
    lanes = 0 if calls(nest) else target.lanes
    if len(loops) == 1 or _same_everywhere(nest):
        # One long row: threads take blocks of vectors.
        row = sch.fuse(*loops) if len(loops) > 1 else loops[0]
        extent = int(sch.get(row).extent)
        width = _row(extent, target)
        if width:
            outer, inner = sch.split(row, [None, width])
            parallel_outer(sch, [outer], amount)
            split_lanes(sch, inner, lanes)
        else:
            parallel_outer(sch, [row], amount)
        return
    parallel_outer(sch, loops[:-1], amount)
    split_lanes(sch, loops[-1], lanes)


def _row(extent: int, target: Target) -> int:
    """A multiple of the vector that divides the extent, long enough that the loop around it costs nothing; 0: none."""
    return next((width for width in (16 * target.lanes, 4 * target.lanes, target.lanes) if extent % width == 0), 0)


def _same_everywhere(nest: Nest) -> bool:
    """Whether every access is at the block's own position, so that the loops are one row in memory."""
    variables = nest.variables
    for region in [*nest.block.reads, *nest.block.writes]:
        if len(region.region) != len(variables):
            return False
        for place, variable, extent, size in zip(region.region, variables, nest.extents, region.source.shape, strict=True):
            if int(size) != extent or not is_constant(place.extent, 1):
                return False
            if not place.min.same_as(variable) and not (extent == 1 and is_constant(place.min, 0)):
                return False
    return True
