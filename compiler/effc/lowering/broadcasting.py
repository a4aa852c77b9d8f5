"""The element of an operand that an element of a larger result reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["element"]


def element(operand: Any, index: Sequence[Any], shape: Sequence[int]) -> Any:
    """An element of a tensor, broadcast to a result of some shape; a scalar is its own.

    Along an axis that both have with one element the index is the result's: an operator that reads every operand where it writes is
    elementwise to TVM, and is fused behind convolutions.
    """
    from tvm import tirx

    if not hasattr(operand, "shape"):
        return operand
    rank = len(operand.shape)
    own = zip(index[len(index) - rank :], operand.shape, shape[len(shape) - rank :], strict=True)
    read = operand[tuple(0 if int(size) == 1 and result != 1 else i for i, size, result in own)]
    return tirx.Cast(str(operand.dtype), read)  # an expression with a type, where a slice of a tensor has none
