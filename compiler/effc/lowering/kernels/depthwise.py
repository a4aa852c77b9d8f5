"""Convolutions whose output channels fill no vector (depthwise, a few output channels): positions of a row fill the vectors.

Each output row is one task; the sums of a stretch of the row stay in registers while the window runs over the padded input.
"""

from __future__ import annotations

from typing import Any

from effc.lowering.kernels.conv2d import find
from effc.lowering.kernels.generic import rest
from effc.lowering.kernels.nest import PARALLEL_WORK, inline_producers, work
from effc.lowering.kernels.tiling import divisors, epilogue, lanes_of
from effc.targets import Target

__all__ = ["apply"]

# Vectors of one stretch of a row.
VECTORS = 4


def apply(sch: Any, target: Target) -> bool:
    """Schedule a function with one convolution, whatever its channels."""
    if find(sch) is None:
        return False
    inline_producers(sch)
    convolution = find(sch)
    if convolution is None:
        return False
    main = convolution.nest
    amount = work(main)
    lanes = lanes_of(target, str(main.block.writes[0].source.dtype))
    row = main.kinds.count("S") - 1
    stretch = max(divisor for divisor in divisors(main.extents[row]) if divisor <= VECTORS * lanes)
    store = epilogue(sch, main)
    loops = sch.get_loops(store)
    outer, lane = sch.split(loops[row], [None, stretch])
    task = sch.fuse(*loops[:row], outer)
    sch.compute_at(main.handle, task, preserve_unit_loops=True)
    if amount >= PARALLEL_WORK and int(sch.get(task).extent) > 1:
        sch.parallel(task)
    if stretch > 1:
        sch.vectorize(lane)
    own = sch.get_loops(main.handle)[1:]
    positions, reduction = own[row], own[row + 1 :]
    sch.reorder(*own[:row], *reduction, positions)
    if stretch > 1:
        sch.vectorize(positions)
    for window in reduction[1:]:
        if int(sch.get(window).extent) <= 3:
            sch.unroll(window)
    sch.decompose_reduction(main.handle, reduction[0])
    rest(sch, target)
    return True
