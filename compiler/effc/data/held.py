"""Arrays that are in memory already, read like those of a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from effc.data.arrays import UNNAMED, Array, Header
from effc.errors import DataError, Problem

__all__ = ["HeldArrays"]


class HeldArrays:
    """One array, or arrays by name: numpy's, or what becomes one (a torch tensor on the CPU, a list of numbers under a name).

    Attributes:
        name: what messages call them.
        names: the arrays; `x` for a single one.
        named: whether they came by name.

    Raises:
        DataError: something is no array of numbers; all of it at once.
    """

    def __init__(self, given: object, name: str = "the arrays") -> None:
        self.name = name
        self.named = isinstance(given, Mapping)
        entries = given if isinstance(given, Mapping) else {UNNAMED: given}
        if isinstance(given, tuple | list | set):
            hint = "give a numpy array, or a mapping from input names to arrays, with labels under 'y'"
            raise DataError(f"{name}: a {type(given).__name__} is neither an array nor a mapping; {hint}")
        self._arrays: dict[str, Array] = {}
        problems = []
        for key, value in entries.items():
            array = _array(value)
            if array is None:
                what = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
                problems.append(Problem(str(key), what, "is no array of numbers", "give numpy arrays, or the path of a file"))
            else:
                self._arrays[str(key)] = array
        if problems:
            raise DataError(f"{name} cannot be used", problems)
        self.names = list(self._arrays)

    def header(self, name: str) -> Header:
        """Shape and dtype of an array."""
        return Header(self._arrays[name].shape, self._arrays[name].dtype)

    def read(self, names: Sequence[str], limit: int) -> dict[str, Array]:
        """Some of the arrays. No limit holds for what is in memory already."""
        return {name: self._arrays[name] for name in names}


def _array(value: Any) -> Array | None:
    """The value as a numpy array in this machine's byte order; None where it is none."""
    try:
        array: Array = np.asarray(value.detach() if hasattr(value, "detach") else value)  # a parameter of a module needs its gradient cut
    except (ValueError, TypeError, RuntimeError):  # ragged lists, tensors that are not on the CPU
        return None
    if array.dtype.hasobject or array.dtype.kind in "USmM":
        return None
    return array.astype(array.dtype.newbyteorder("="), copy=False)
