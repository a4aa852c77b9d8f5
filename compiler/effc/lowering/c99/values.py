"""Types and numbers of TIR as C writes them. Numbers read back exactly: they are the shortest decimals that do."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from effc.errors import InternalError

__all__ = ["NoTypeError", "c_number", "c_type", "lanes_of", "scalar_of"]

_TYPES = {"bool": "bool", "float32": "float", "float64": "double", "int32": "int32_t", "uint32": "uint32_t"} | {
    f"{sign}int{bits}": f"{sign}int{bits}_t" for sign in ("", "u") for bits in (8, 16, 64)
}


class NoTypeError(InternalError):
    """A type that C99 does not have: half precision, vectors."""


def c_type(dtype: str) -> str:
    """The C type of a TIR type. Raises NoTypeError."""
    if dtype not in _TYPES:
        raise NoTypeError(f"C99 has no type for {dtype}")
    return _TYPES[dtype]


def c_number(value: float | int, dtype: str) -> str:
    """A number that reads back exactly."""
    if dtype == "bool":
        return "true" if value else "false"
    if not dtype.startswith("float"):
        return _integer(int(value), dtype)
    single = dtype == "float32"
    number: Any = np.float32(value) if single else np.float64(value)
    if np.isnan(number):
        return "NAN" if single else "(double)NAN"
    if np.isinf(number):
        return ("-" if number < 0 else "") + ("INFINITY" if single else "(double)INFINITY")
    text = np.format_float_scientific(number, unique=True, trim="0") if number != 0 else ("-0.0" if np.signbit(number) else "0.0")
    text = re.sub(r"e[+-]00$", "", text)
    return text + ("f" if single else "")


def _integer(value: int, dtype: str) -> str:
    if dtype == "int32" and value == -(1 << 31):
        return "INT32_MIN"
    if dtype == "int64":
        return "INT64_MIN" if value == -(1 << 63) else f"INT64_C({value})"
    if dtype == "uint64":
        return f"UINT64_C({value})"
    return f"{value}u" if dtype == "uint32" else str(value)


def scalar_of(dtype: Any) -> str:
    """The type of one lane: `uint8` of `uint8x64`."""
    return str(dtype).partition("x")[0]


def lanes_of(dtype: Any) -> int:
    return int(str(dtype).partition("x")[2] or 1)
