"""What any function gets when no other rule takes it: inlining, threads over outer loops, vectors over rows, each block by itself."""

from __future__ import annotations

from typing import Any

from effc.lowering.kernels.elementwise import spread
from effc.lowering.kernels.nest import inline_producers, nests, plain
from effc.lowering.kernels.reduction import reduce_rows
from effc.targets import Target

__all__ = ["apply", "rest"]


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
