"""Arrays of numbers as C text that reads back exactly."""

from __future__ import annotations

from typing import Any

import numpy as np

from effc.lowering.c99.printer import c_number, c_type

__all__ = ["c_array"]

Array = np.ndarray[Any, Any]
_WIDTH = 120  # letters of a line


def c_array(array: Array, name: str, *, qualifiers: str, calls: int | None = None) -> str:
    """The definition of an array with all elements, flat and in C order; of `calls` rows where that is given.

    A NaN is written as the usual one: its other bits have no form in C99. An array without elements gets one, which nothing reads.
    """
    if array.dtype.name == "bfloat16":  # kernels take its bits
        array = array.view(np.uint16)
    dtype = array.dtype.name
    flat = np.ascontiguousarray(array).reshape(-1)
    numbers = _numbers(flat, dtype) or ["0"] * (calls or 1)
    size = f"[{len(numbers)}]" if calls is None else f"[{calls}][{len(numbers) // calls}]"
    if calls is None:
        body = _lines(numbers)
    else:
        row = len(numbers) // calls
        body = ",\n".join("{\n" + _lines(numbers[start : start + row]) + "\n}" for start in range(0, len(numbers), row))
    return f"{qualifiers} {c_type(dtype)} {name}{size} = {{\n{body}\n}};\n"


def _numbers(flat: Array, dtype: str) -> list[str]:
    if dtype in ("int8", "uint8", "int16", "uint16"):
        return [str(value) for value in flat.tolist()]
    return [c_number(value, dtype) for value in flat]


def _lines(numbers: list[str]) -> str:
    longest = max(map(len, numbers)) + 2
    size = max(1, _WIDTH // longest)
    return ",\n".join("  " + ", ".join(numbers[start : start + size]) for start in range(0, len(numbers), size))
