"""Known values while the graph is read: numpy arrays, of dtype object where a size is symbolic (torch SymInts among Python ints)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

__all__ = ["Array", "is_symbolic", "itemsize", "number", "settle"]

Array = np.ndarray[Any, Any]
_OBJECT_BYTES = 128  # a SymInt with its expression; a Python int takes less


def is_symbolic(value: object) -> bool:
    """Whether a known value holds a symbolic size."""
    return isinstance(value, np.ndarray) and value.dtype == object


def itemsize(kind: Any, *values: Array | None) -> int:
    """Bytes of one element of a result of dtype `kind` that is computed from `values`, as the budget counts them."""
    return _OBJECT_BYTES if any(is_symbolic(value) for value in values) else int(np.dtype(kind).itemsize)


def settle(values: Any, dtype: Any = np.int64) -> Array:
    """An array of sizes: of the given dtype where all are numbers, of dtype object where one is symbolic."""
    array = np.asarray(values, dtype=object)
    numbers = [number(value) for value in array.reshape(-1)]
    if any(isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool) for value in numbers):
        result = np.empty(array.shape, dtype=object)
        result.reshape(-1)[:] = numbers
        return result
    return np.array(numbers, dtype=dtype).reshape(array.shape)


def number(value: Any) -> Any:
    """One element as a Python number, or as a symbol where it has no fixed value."""
    if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
        constant = value.node.maybe_as_int() if isinstance(value, torch.SymInt) else None
        return value if constant is None else constant
    return value.item() if isinstance(value, np.generic) else value
