"""Inputs where compiled code can read them: in place where their address allows it, otherwise copied."""

from __future__ import annotations

from effc.runtime.executor import address, aligned_empty
from effc.runtime.tensors import Array

__all__ = ["Staging"]


class Staging:
    """Copies are kept and used again, one for each name: an array that was handed out is valid until the next of its name."""

    def __init__(self, alignment: int) -> None:
        """`alignment`: of an executor, see there."""
        self._alignment = alignment
        self._copies: dict[str, Array] = {}

    def __call__(self, name: str, array: Array) -> Array:
        """The array itself, or a copy at an address that the code can read."""
        if array.flags.c_contiguous and array.flags.aligned and (self._alignment == 1 or address(array) % self._alignment == 0):
            return array
        if name not in self._copies:
            self._copies[name] = aligned_empty(array.shape, array.dtype)
        copy = self._copies[name]
        copy[...] = array
        return copy
