"""Products that skip the rows of their weights whose input is zero, where that is predicted to be faster than the dense kernel.

How often inputs are zero was observed on data (a pass that makes zeros records it); whatever the data of a call, its results are those
of the product.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from effc.cost.skipping import skipping
from effc.lowering.kernels.fused import Fused
from effc.lowering.kernels.implementation import Implementation
from effc.lowering.kernels.weight_rows import WeightRows
from effc.runtime.tensors import dtype_named
from effc.targets import Target

__all__ = ["product"]


def product(fused: Fused, fixed: Sequence[bool], target: Target) -> Implementation | None:
    """The product of a function; None where it is none of that kind, or where the dense one is predicted to be faster."""
    if fused.kind != "matmul" or str(fused.anchor.buffer.dtype) != "float32" or len(fused.reads()) != 2:
        return None
    right, known = fused.reads()[1], fused.known
    argument = fused.argument(right)
    if known is None or known.density is None or argument is None or not fixed[argument] or len(right.shape) != 2:
        return None
    *batch, rows, columns, depth = fused.anchor.extents
    size = {"rows": math.prod(batch) * rows, "depth": depth, "columns": columns}
    itemsize = dtype_named(str(right.dtype)).itemsize
    decision = skipping(target, **size, density=known.density, stored=known.stored, itemsize=itemsize)
    if not decision.pays:
        fused.reasons.append(decision.why)
        return None
    return WeightRows(fused, argument, target, skip=True).implementation("skipping", decision.why)
