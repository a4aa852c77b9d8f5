"""Products of a few rows on a device: rows of zero inputs skipped where that is predicted to be faster, all rows read elsewhere.

A product of up to `MOST_ROWS` inputs takes the time in which its weights come from the device's memory, so both are the kernel of
`weight_rows`: it reads every weight that it needs once, in the widest loads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from effc.cost.skipping import skipping
from effc.lowering.kernels.cuda.weight_rows import MOST_ROWS, WeightRows
from effc.lowering.kernels.fused import Fused
from effc.lowering.kernels.implementation import Implementation
from effc.runtime.tensors import dtype_named
from effc.targets import Target

__all__ = ["few_rows", "product", "stored_right"]

_MOST_ELEMENTS = 1 << 31  # places in memory are counted in 32 bits


def stored_right(fused: Fused, fixed: Sequence[bool]) -> int | None:
    """Which argument is the stored matrix of a product of float32 of a few rows; None where the function is none."""
    if fused.kind != "matmul" or str(fused.anchor.buffer.dtype) != "float32" or len(fused.reads()) != 2:
        return None
    right = fused.reads()[1]
    argument = fused.argument(right)
    *outer, columns, depth = fused.anchor.extents
    if argument is None or not fixed[argument] or len(right.shape) != 2 or str(right.dtype) not in ("float32", "float16", "bfloat16"):
        return None
    if math.prod(outer) > MOST_ROWS or (columns + 7) * depth >= _MOST_ELEMENTS:
        return None
    return argument


def product(fused: Fused, fixed: Sequence[bool], target: Target) -> Implementation | None:
    """The product of a function that skips; None where it is none of that kind, or where reading all rows is predicted to be faster."""
    argument, known = stored_right(fused, fixed), fused.known
    if argument is None or known is None or known.density is None:
        return None
    *outer, columns, depth = fused.anchor.extents
    size = {"rows": math.prod(outer), "depth": depth, "columns": columns}
    itemsize = dtype_named(str(fused.reads()[1].dtype)).itemsize
    decision = skipping(target, **size, density=known.density, stored=known.stored, itemsize=itemsize)
    if not decision.pays:
        fused.reasons.append(decision.why)
        return None
    return WeightRows(fused, argument, target, skip=True).implementation("skipping", decision.why)


def few_rows(fused: Fused, fixed: Sequence[bool], target: Target) -> Implementation | None:
    """The product of a function that reads every weight; None where it is none of a few rows with a stored matrix."""
    argument = stored_right(fused, fixed)
    if argument is None:
        return None
    return WeightRows(fused, argument, target, skip=False).implementation("streaming", "all weights read once, row by row")
