"""Products of one row with weights that come from memory: row by row, which is how memory is read fastest.

The register tiles of `matmul` take their weights from blocks of a few vectors; for one input they do nothing but wait for them. Whole rows
in large pieces, several at once, keep more requests under way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from effc.lowering.kernels.fused import Fused
from effc.lowering.kernels.implementation import Implementation
from effc.lowering.kernels.weight_rows import WeightRows
from effc.targets import Target

__all__ = ["product"]

_MOST_ROWS = 1
_LEAST_COLUMNS = 512  # of shorter rows the first bytes are waited for too often


def product(fused: Fused, fixed: Sequence[bool], target: Target) -> Implementation | None:
    """The product of a function; None where it is none of that kind, or where its weights stay in a cache."""
    if fused.kind != "matmul" or str(fused.anchor.buffer.dtype) != "float32" or len(fused.reads()) != 2:
        return None
    right, known = fused.reads()[1], fused.known
    argument = fused.argument(right)
    if known is None or argument is None or not fixed[argument] or len(right.shape) != 2:
        return None
    *batch, rows, columns, _ = fused.anchor.extents
    if math.prod(batch) * rows > _MOST_ROWS or columns < _LEAST_COLUMNS or known.stored <= target.l2 * max(1, target.rates.threads):
        return None
    return WeightRows(fused, argument, target, skip=False).implementation("streaming", "weights from memory, row by row")
