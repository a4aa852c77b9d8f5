"""Pooling: each row of the result is one task, positions of the row fill the vectors, the window runs over the padded input.

A pool without padding, or over a whole image, is a reduction like any other; this rule takes windows that slide.
"""

from __future__ import annotations

from typing import Any

from effc.lowering.kernels.generic import rest
from effc.lowering.kernels.nest import PARALLEL_WORK, Nest, inline_producers, nests, work
from effc.lowering.kernels.tiling import divisors, epilogue, lanes_of
from effc.targets import Target

__all__ = ["apply", "rows"]

# Vectors of one stretch of a row.
VECTORS = 4


def apply(sch: Any, target: Target) -> bool:
    """Schedule a function with one sliding-window reduction over a single input."""
    if len([nest for nest in nests(sch) if _slides(nest)]) != 1:
        return False
    inline_producers(sch)
    found = [nest for nest in nests(sch) if _slides(nest)]
    if len(found) != 1:
        return False
    rows(sch, found[0], target)
    rest(sch, target)
    return True


def rows(sch: Any, main: Nest, target: Target) -> None:
    """Compute the sums (or maxima) of a stretch of a row at a time, in registers, where they are stored."""
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
    if stretch > 1 and not _strided(main):
        sch.vectorize(positions)
    for window in reduction[-2:]:
        if len(reduction) > 1 and int(sch.get(window).extent) <= 3:
            sch.unroll(window)
    sch.decompose_reduction(main.handle, reduction[0])


def _strided(main: Nest) -> bool:
    """Whether positions of a row read every second (third, ...) element: LLVM shuffles vectors for that, a gather would be slower."""
    from tvm import tirx

    places = [region.region[-1].min for region in main.block.reads]
    return any(isinstance(place, tirx.Add) and isinstance(place.a, tirx.Mul) for place in places)


def _slides(nest: Nest) -> bool:
    """Whether the block reduces one input whose last index adds a window's variable to a position's."""
    from tvm import tirx

    spatial = nest.kinds.count("S")
    if nest.kinds != "S" * spatial + "R" * (len(nest.kinds) - spatial) or spatial in (0, len(nest.kinds)) or 0 in nest.extents:
        return False
    if len(nest.block.reads) != 1 or len(nest.block.writes) != 1 or len(nest.block.writes[0].region) != spatial:
        return False
    return isinstance(nest.block.reads[0].region[-1].min, tirx.Add)
