"""Folding, element by element: arithmetic, comparison, logic, casts and reductions, on numbers and on symbolic sizes."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch

from effc.frontends.onnx.limits import Budget
from effc.frontends.onnx.operators.base import Node
from effc.frontends.onnx.symbolic import Array, is_symbolic, itemsize, number, settle

__all__ = ["ARITHMETIC", "axes_of"]


def _result_dtype(inputs: Sequence[Array | None]) -> Any:
    """The element type that the operator keeps: that of the known numbers; sizes are int64."""
    kinds = [value.dtype for value in inputs if value is not None and value.dtype != object]
    return kinds[0] if kinds else np.dtype(np.int64)


def _elementwise(function: Callable[..., Any], dtype: Any = None) -> Callable[..., Array]:
    def rule(node: Node, inputs: list[Array], budget: Budget) -> Array:
        shape = np.broadcast_shapes(*(value.shape for value in inputs))
        kind = dtype or _result_dtype(inputs)
        budget.reserve(shape, itemsize(kind, *inputs), f"{node.name} ({node.op})")
        if not any(is_symbolic(value) for value in inputs):
            with np.errstate(all="ignore"):  # integer wrap-around and 0/0 are ONNX's meaning too
                return np.asarray(reduce(function, inputs) if len(inputs) > 1 else function(inputs[0])).astype(kind, copy=False)
        spread = [np.broadcast_to(value.astype(object), shape).reshape(-1) for value in inputs]
        flat = [reduce(function, (number(part) for part in parts)) for parts in zip(*spread, strict=True)]
        result = np.empty(len(flat), dtype=object)
        result[:] = flat
        return settle(result.reshape(shape), kind)

    return rule


def _divide(a: Any, b: Any) -> Any:
    """ONNX's division: exact for floats, towards zero for integers (sizes are never negative, so floor is the same there)."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        if a.dtype.kind == "f":
            return a / b
        if np.any(b == 0):
            raise ValueError("integer division by zero")
        return np.trunc(np.true_divide(a, b)) if np.abs(a).max(initial=0) < 2**52 else np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))
    return a / b if isinstance(a, float | torch.SymFloat) else a // b


def _modulo(node: Node, inputs: list[Array], budget: Budget) -> Array:
    if node.get("fmod", 0):
        return _elementwise(np.fmod)(node, inputs, budget)
    return _elementwise(operator.mod)(node, inputs, budget)


def _minimum(a: Any, b: Any) -> Any:
    return np.minimum(a, b) if isinstance(a, np.ndarray) else torch.sym_min(a, b)  # type: ignore[no-untyped-call]


def _maximum(a: Any, b: Any) -> Any:
    return np.maximum(a, b) if isinstance(a, np.ndarray) else torch.sym_max(a, b)  # type: ignore[no-untyped-call]


def _and(a: Any, b: Any) -> Any:
    return np.logical_and(a, b) if isinstance(a, np.ndarray) else bool(a) and bool(b)


def _or(a: Any, b: Any) -> Any:
    return np.logical_or(a, b) if isinstance(a, np.ndarray) else bool(a) or bool(b)


def _where(node: Node, inputs: list[Array], budget: Budget) -> Array:
    condition, yes, no = inputs
    shape = np.broadcast_shapes(condition.shape, yes.shape, no.shape)
    kind = _result_dtype((yes, no))
    budget.reserve(shape, itemsize(kind, *inputs), f"{node.name} (Where)")
    chosen = np.where(condition.astype(bool), yes, no)  # bool() of a symbolic condition adds a guard, as in torch
    return settle(chosen, kind) if chosen.dtype == object else chosen


def _cast(node: Node, inputs: list[Array], budget: Budget) -> Array | None:
    from onnx import helper

    kind = helper.tensor_dtype_to_np_dtype(int(node.get("to")))
    (x,) = inputs[:1]
    if kind.kind not in "iufb" or kind.itemsize > 8:
        return None
    budget.reserve(x.shape, itemsize(kind, x), f"{node.name} (Cast)")
    if not is_symbolic(x):
        with np.errstate(all="ignore"):
            return x.astype(kind)
    convert: Callable[[Any], Any] = torch.sym_float if kind.kind == "f" else bool if kind.kind == "b" else torch.sym_int
    result = np.empty(x.shape, dtype=object)
    result.reshape(-1)[:] = [convert(value) for value in x.reshape(-1)]
    return settle(result, kind)


def axes_of(node: Node, inputs: Sequence[Array | None]) -> list[int] | None:
    """The axes, which are an input in newer opsets and an attribute in older ones; None where the node names none."""
    if len(inputs) > 1 and inputs[1] is not None:
        return [int(axis) for axis in inputs[1].reshape(-1)]
    given = node.get("axes")
    return None if given is None else [int(axis) for axis in given]


def _reduce(function: Callable[..., Any], numpy_function: Callable[..., Any]) -> Callable[..., Array]:
    def rule(node: Node, inputs: list[Array], budget: Budget) -> Array:
        x, axes, keep = inputs[0], axes_of(node, inputs), bool(node.get("keepdims", 1))
        if not axes and node.get("noop_with_empty_axes", 0):
            return x
        if is_symbolic(x):
            if x.ndim != 1:
                raise ValueError(f"{node.op} of symbolic sizes over several axes")
            return settle([reduce(function, x)] if keep else reduce(function, x))
        whole = axes or range(x.ndim)
        reduced = {axis % max(1, x.ndim) for axis in whole}
        kept = [1 if axis in reduced else size for axis, size in enumerate(x.shape)]  # an empty axis may leave a large result
        budget.reserve(kept, itemsize(x.dtype), f"{node.name} ({node.op})")
        return np.asarray(numpy_function(x, axis=tuple(axes) if axes else None, keepdims=keep)).astype(x.dtype)

    return rule


ARITHMETIC: dict[str, Callable[..., Array | None]] = {
    "Add": _elementwise(operator.add),
    "Sub": _elementwise(operator.sub),
    "Mul": _elementwise(operator.mul),
    "Div": _elementwise(_divide),
    "Mod": _modulo,
    "Neg": _elementwise(operator.neg),
    "Min": _elementwise(_minimum),
    "Max": _elementwise(_maximum),
    "Equal": _elementwise(operator.eq, np.bool_),
    "Less": _elementwise(operator.lt, np.bool_),
    "Greater": _elementwise(operator.gt, np.bool_),
    "GreaterOrEqual": _elementwise(operator.ge, np.bool_),
    "LessOrEqual": _elementwise(operator.le, np.bool_),
    "And": _elementwise(_and, np.bool_),
    "Or": _elementwise(_or, np.bool_),
    "Not": _elementwise(np.logical_not, np.bool_),
    "Where": _where,
    "Cast": _cast,
    "ReduceProd": _reduce(operator.mul, np.prod),
    "ReduceSum": _reduce(operator.add, np.sum),
    "ReduceMax": _reduce(_maximum, np.max),
    "ReduceMin": _reduce(_minimum, np.min),
}
