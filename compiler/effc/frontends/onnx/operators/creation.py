"""Constants, casts and ranges."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from effc.frontends.onnx.operators.base import Node, Operator, Unsupported, Value
from effc.frontends.onnx.operators.values import DTYPES, all_constant, dtype_of, ints, is_constant, number, tensor

__all__ = ["OPERATORS"]

_SMALL = 4096  # elements; a filled array up to this size stays a numpy constant, so that what is computed from it folds

_NUMPY: dict[int, Any] = {
    1: np.float32, 2: np.uint8, 3: np.int8, 4: np.uint16, 5: np.int16, 6: np.int32, 7: np.int64, 9: np.bool_, 10: np.float16,
    11: np.float64, 12: np.uint32, 13: np.uint64,
}  # fmt: skip


def constant_node(node: Node) -> Value:
    """The `Constant` operator: whichever attribute holds the value."""
    if node.get("value") is not None:
        return np.asarray(node.get("value"))
    for name, dtype in (("value_float", np.float32), ("value_floats", np.float32), ("value_int", np.int64), ("value_ints", np.int64)):
        if node.get(name) is not None:
            return np.asarray(node.get(name), dtype=dtype)
    raise Unsupported("a constant of strings or in sparse form", "write it as a dense tensor")


def constant_of_shape(node: Node, given: Value) -> Value:
    filling = np.asarray(node.get("value", np.zeros(1, np.float32))).reshape(-1)
    sizes = ints(given, "the shape")
    if all(isinstance(size, int) for size in sizes) and math.prod(sizes) <= _SMALL and filling.dtype.kind in "iub":
        return np.full(sizes, filling[0], dtype=filling.dtype)
    one = tensor(filling)
    return torch.full(sizes, one[0].item(), dtype=one.dtype) if filling.dtype.kind != "V" else one[0].expand(sizes)


def cast(node: Node, x: Value) -> Value:
    """Floating point to integer truncates; to bool is `!= 0`."""
    to = int(node.get("to"))
    dtype = dtype_of(to)
    if is_constant(x):
        array = np.asarray(x)
        if array.dtype == object and to in (6, 7):
            return array
        if array.dtype.kind in "biu" and to in (2, 3, 4, 5, 6, 7, 9, 12, 13):
            return array.astype(_NUMPY[to])
        if array.dtype.kind in "biuf" and array.dtype.name != "bfloat16" and array.size <= _SMALL and to in _NUMPY:
            return array.astype(_NUMPY[to])
    return _convert(tensor(x), dtype)


def _convert(x: Tensor, dtype: torch.dtype) -> Tensor:
    if x.is_complex() or dtype.is_complex:
        raise Unsupported("a cast of complex numbers")
    if dtype == torch.uint64 and x.is_floating_point():
        raise Unsupported("a cast of floating point to uint64", "use int64")
    return x.to(dtype)


def cast_like(node: Node, x: Value, like: Value) -> Value:
    if is_constant(x) and is_constant(like):
        array, wanted = np.asarray(x), np.asarray(like).dtype
        if array.dtype.kind in "biuf" and wanted.kind in "biuf":
            return array.astype(wanted)
    dtype = tensor(like).dtype
    if dtype not in DTYPES.values():
        raise Unsupported(f"data type {dtype}")
    return _convert(tensor(x), dtype)


def range_(node: Node, start: Value, limit: Value, delta: Value) -> Value:
    if not all_constant((start, limit, delta)):
        raise Unsupported("its bounds are computed from data, so its length is not known", "compute them from shapes or constants")
    bounds = [np.asarray(value).reshape(()) for value in (start, limit, delta) if value is not None]
    if any(bound.dtype == object for bound in bounds):
        first, last, step = (bound.item() for bound in bounds)
        return torch.arange(first, last, step, dtype=torch.int64)
    dtype = bounds[0].dtype
    first, last, step = (number(bound, "a bound") for bound in bounds)
    count = max(math.ceil((last - first) / step), 0)
    if count > 1 << 24:
        raise Unsupported(f"a range of {count} elements")
    found: np.ndarray[Any, Any] = (bounds[0] + np.arange(count, dtype=dtype) * bounds[2]).astype(dtype)
    return found


def random(node: Node, *inputs: Value) -> Value:
    raise Unsupported("its result is random, so no two runs agree", "take random numbers as a network input")


OPERATORS = (
    Operator("Bernoulli", random, 15),
    Operator("Cast", cast, 6),
    Operator("CastLike", cast_like, 15),
    Operator("Constant", constant_node, 1),
    Operator("ConstantOfShape", constant_of_shape, 9),
    Operator("Multinomial", random, 7),
    Operator("RandomNormal", random, 1),
    Operator("RandomNormalLike", random, 1),
    Operator("RandomUniform", random, 1),
    Operator("RandomUniformLike", random, 1),
    Operator("Range", range_, 11, constants=(0, 1, 2)),
)
