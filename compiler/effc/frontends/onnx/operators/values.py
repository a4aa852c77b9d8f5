"""Conversions between the values of an ONNX graph: tensors, numpy constants, sizes that may be symbolic, data types by number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import numpy as np
import torch
from torch import Tensor

from effc.frontends.onnx.operators.base import Node, Unsupported, Value

__all__ = [
    "DTYPES",
    "all_constant",
    "axes_of",
    "check_steps",
    "check_table",
    "constant",
    "dtype_of",
    "folds",
    "ints",
    "is_constant",
    "normal_axis",
    "number",
    "shape_of",
    "tensor",
]

_TABLE = 1 << 24  # numbers; 128 MiB in float64
_STEPS = 1 << 12

# TensorProto.DataType -> torch. Absent: string (8), 8-bit and smaller floats (17-20, 23, 24), 4- and 2-bit integers (21, 22, 25, 26).
DTYPES: dict[int, torch.dtype] = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    4: torch.uint16,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
    12: torch.uint32,
    13: torch.uint64,
    14: torch.complex64,
    15: torch.complex128,
    16: torch.bfloat16,
}

_NAMES = {8: "string", 17: "float8e4m3fn", 18: "float8e4m3fnuz", 19: "float8e5m2", 20: "float8e5m2fnuz", 21: "uint4", 22: "int4",
          23: "float4e2m1", 24: "float8e8m0", 25: "uint2", 26: "int2"}  # fmt: skip


def dtype_of(number: int) -> torch.dtype:
    """The torch dtype of a TensorProto.DataType number."""
    if number not in DTYPES:
        raise Unsupported(f"data type {_NAMES.get(number, number)}", "convert the model to float32, float16, bfloat16 or 8-bit integers")
    return DTYPES[number]


def is_constant(value: Value) -> bool:
    return isinstance(value, np.ndarray | np.generic)


def all_constant(values: Sequence[Value]) -> bool:
    return all(value is None or is_constant(value) for value in values)


def tensor(value: Value) -> Tensor:
    """The value as a torch tensor; symbolic sizes become an int64 tensor."""
    if isinstance(value, Tensor):
        return value
    if value is None:
        raise Unsupported("a required input is missing", "the file is malformed; check it with onnx.checker")
    array = np.asarray(value)
    if array.dtype == object:
        elements = [torch.scalar_tensor(_concrete(item), dtype=torch.int64) for item in array.reshape(-1)]
        return torch.stack(elements).reshape(array.shape) if elements else torch.zeros(array.shape, dtype=torch.int64)
    if array.dtype.name == "bfloat16":
        return torch.tensor(np.ascontiguousarray(array).view(np.int16)).view(torch.bfloat16)
    if array.dtype.kind not in "biufc":
        raise Unsupported(f"data type {array.dtype.name}", "convert the model to float32, float16, bfloat16 or 8-bit integers")
    return torch.tensor(np.asarray(array, order="C"))


def constant(value: Value, what: str) -> np.ndarray[Any, Any]:
    """The value as a numpy array, or `Unsupported` where it is computed from the network's data."""
    if is_constant(value):
        return np.asarray(value)
    raise Unsupported(f"{what} is computed from data", f"fold {what} to a constant or compute it from shapes (onnxruntime or onnxsim can)")


def ints(value: Value, what: str) -> list[int]:
    """The elements of a constant as sizes (int or SymInt), flat."""
    return [_concrete(item) for item in constant(value, what).reshape(-1)]


def number(value: Value, what: str) -> float | int | bool:
    """The single element of a constant as a Python number."""
    array = constant(value, what).reshape(-1)
    if len(array) != 1:
        raise Unsupported(f"{what} has {len(array)} elements where one is meant")
    return array[0] if array.dtype == object else array[0].item()  # type: ignore[no-any-return]


def _concrete(item: Any) -> Any:
    return item if isinstance(item, torch.SymInt) else int(item)


def check_table(entries: int, what: str) -> None:
    """Refuse a table of constants that an operator would compute while the graph is read, before it takes gigabytes."""
    if entries > _TABLE:
        raise Unsupported(f"{what} makes a table of {entries} numbers, more than the {_TABLE} that effc computes for one operator")


def check_steps(steps: int, what: str) -> None:
    """Refuse an operator that would be written out as so many others."""
    if steps > _STEPS:
        raise Unsupported(f"{what} is written out as {steps} operators, more than the {_STEPS} that effc makes of one")


def normal_axis(axis: int, dims: int) -> int:
    """A negative axis counted from the front."""
    if not -max(dims, 1) <= axis < max(dims, 1):
        raise Unsupported(f"axis {axis} of a tensor of rank {dims}", "the file is malformed; check it with onnx.checker")
    return axis + dims if axis < 0 else axis


def axes_of(node: Node, given: Value, dims: int, since_input: int) -> list[int] | None:
    """The node's `axes`, an attribute before opset `since_input` and an input from then on, counted from the front."""
    if given is not None:
        axes: Sequence[int] | None = ints(given, "axes")
    else:
        axes = node.get("axes") if node.opset < since_input or node.get("axes") is not None else None
    return None if axes is None else [normal_axis(int(axis), dims) for axis in axes]


def shape_of(value: Value) -> np.ndarray[Any, Any]:
    """The shape as an int64 array, or as an object array where sizes are symbolic."""
    if value is None:
        raise Unsupported("a required input is missing")
    sizes = list(value.shape)
    if all(isinstance(size, int) for size in sizes):
        return np.asarray(sizes, dtype=np.int64)
    array = np.empty(len(sizes), dtype=object)
    array[:] = sizes
    return array


def folds(in_numpy: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Let a function compute with `in_numpy` where all its inputs are constants; `in_numpy` must accept object arrays."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(node: Node, *inputs: Value) -> Any:
            return in_numpy(node, *inputs) if all_constant(inputs) else function(node, *inputs)

        return call

    return decorate
