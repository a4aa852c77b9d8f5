"""Convolutions whose output channels fill no vector (depthwise, a few output channels): positions of a row fill the vectors.

Each output row is one task; the sums of a stretch of the row stay in registers while the window runs over the padded input.
"""

from __future__ import annotations

from typing import Any

from effc.lowering.kernels.conv2d import find
from effc.lowering.kernels.generic import rest
from effc.lowering.kernels.nest import inline_producers
from effc.lowering.kernels.pool import rows
from effc.targets import Target

__all__ = ["apply"]


def apply(sch: Any, target: Target) -> bool:
    """Schedule a function with one convolution, whatever its channels."""
    if find(sch) is None:
        return False
    inline_producers(sch)
    convolution = find(sch)
    if convolution is None:
        return False
    rows(sch, convolution.nest, target)
    rest(sch, target)
    return True
