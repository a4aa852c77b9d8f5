"""What is known while the graph is read: shape arithmetic in numpy, on numbers and on symbolic sizes.

Shape -> Gather -> Concat -> Reshape chains vanish here, before torch sees them. A known value is a numpy array; where a size is symbolic
the array has dtype object and holds torch SymInts among Python ints. Nothing here allocates before the result's size passed the limits.

Two ways: `_RULES`, small functions that also understand symbolic sizes, and onnx's own reference evaluator for the operators in
`_REFERENCE`, whose results are no larger than their inputs. Whatever is in neither is left to the operator table (`None`).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch

from effc.frontends.onnx.limits import Limits
from effc.frontends.onnx.operators.base import Node

__all__ = ["Budget", "fold", "is_symbolic", "settle"]

Array = np.ndarray[Any, Any]

# Computed by onnx.reference: results bounded by the size of the inputs (times a few), no control flow, no randomness.
_REFERENCE = frozenset(
    (
        *("Abs", "ArgMax", "ArgMin", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Ceil", "Clip", "Compress"),
        *("Cos", "CumSum", "Erf", "Exp", "Flatten", "Floor", "GatherElements", "GatherND", "GreaterOrEqual", "IsInf", "IsNaN"),
        *("LessOrEqual", "Log", "Mean", "NonZero", "Pow", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceMean", "ReduceSumSquare"),
        *("Relu", "Round", "ScatterElements", "ScatterND", "Sigmoid", "Sign", "Sin", "Split", "Sqrt", "Sum", "Tanh", "TopK"),
        *("Trilu", "Unique"),
    )
)
_REFERENCE_ELEMENTS = 1 << 16


class Budget:
    """Bytes of folded constants so far, against `Limits.folded_bytes`."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.spent = 0

    def reserve(self, shape: Sequence[int], itemsize: int, what: str) -> None:
        """Account for a result before it is computed."""
        elements = self.limits.check_shape(shape, what)
        self.limits.check("folded_bytes", self.spent + elements * itemsize, f"{what}: constants computed from the graph")
        self.spent += elements * itemsize


def is_symbolic(value: object) -> bool:
    """Whether a known value holds a symbolic size."""
    return isinstance(value, np.ndarray) and value.dtype == object


def settle(values: Any, dtype: Any = np.int64) -> Array:
    """An array of sizes: of the given dtype where all are numbers, of dtype object where one is symbolic."""
    array = np.asarray(values, dtype=object)
    numbers = [_number(value) for value in array.reshape(-1)]
    if any(isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool) for value in numbers):
        result = np.empty(array.shape, dtype=object)
        result.reshape(-1)[:] = numbers
        return result
    return np.array(numbers, dtype=dtype).reshape(array.shape)


def _number(value: Any) -> Any:
    if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
        constant = value.node.maybe_as_int() if isinstance(value, torch.SymInt) else None
        return value if constant is None else constant
    return value.item() if isinstance(value, np.generic) else value


def fold(node: Node, inputs: Sequence[Array | None], budget: Budget) -> Array | tuple[Array, ...] | None:
    """The node's value where all its inputs are known and it is an operator of shape arithmetic; None where it is not.

    Raises:
        LimitError: the result would be over `tensor_elements` or `folded_bytes`.
        ValueError, IndexError: the inputs do not fit the operator (a malformed graph).
    """
    if node.domain not in ("", "ai.onnx") or any(value is not None and value.dtype.kind in "US" for value in inputs):
        return None
    rule = _RULES.get(node.op)
    if rule is not None:
        return rule(node, list(inputs), budget)
    elements = sum(value.size for value in inputs if value is not None)
    if node.op in _REFERENCE and elements <= _REFERENCE_ELEMENTS and not any(is_symbolic(value) for value in inputs):
        return _by_reference(node, inputs, budget)
    return None


def _by_reference(node: Node, inputs: Sequence[Array | None], budget: Budget) -> Array | tuple[Array, ...]:
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    shape = np.broadcast_shapes(*(value.shape for value in inputs if value is not None)) if node.op in _BROADCASTING else ()
    largest = max((value.size for value in inputs if value is not None), default=1)
    budget.reserve(shape if shape else (8 * largest,), 8, f"{node.name} ({node.op})")
    names = [f"x{i}" if value is not None else "" for i, value in enumerate(inputs)]
    outputs = [f"y{i}" if name else "" for i, name in enumerate(node.outputs)]
    proto = helper.make_node(node.op, names, outputs, **dict(node.attributes))
    graph = helper.make_graph([proto], "folded", [], [])
    graph.input.extend(helper.make_empty_tensor_value_info(name) for name in names if name)
    graph.output.extend(helper.make_empty_tensor_value_info(name) for name in outputs if name)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", node.opset)])
    feeds = {name: value for name, value in zip(names, inputs, strict=True) if name}
    given = iter(ReferenceEvaluator(model).run(None, feeds))
    results = tuple(np.asarray(next(given)) if name else np.empty(0) for name in node.outputs)
    return results[0] if len(results) == 1 else results


_BROADCASTING = ("BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Clip", "GreaterOrEqual", "LessOrEqual", "Mean", "Pow", "Sum")


# ---- rules that understand symbolic sizes ----------------------------------------------------------------------------------------


def _result_dtype(inputs: Sequence[Array | None]) -> Any:
    """The element type that the operator keeps: that of the known numbers; sizes are int64."""
    kinds = [value.dtype for value in inputs if value is not None and value.dtype != object]
    return kinds[0] if kinds else np.dtype(np.int64)


def _elementwise(function: Callable[..., Any], dtype: Any = None) -> Callable[..., Array]:
    def rule(node: Node, inputs: list[Array], budget: Budget) -> Array:
        shape = np.broadcast_shapes(*(value.shape for value in inputs))
        kind = dtype or _result_dtype(inputs)
        budget.reserve(shape, np.dtype(kind).itemsize, f"{node.name} ({node.op})")
        if not any(is_symbolic(value) for value in inputs):
            with np.errstate(all="ignore"):  # integer wrap-around and 0/0 are ONNX's meaning too
                return np.asarray(reduce(function, inputs) if len(inputs) > 1 else function(inputs[0])).astype(kind, copy=False)
        spread = [np.broadcast_to(value.astype(object), shape).reshape(-1) for value in inputs]
        flat = [reduce(function, (_number(part) for part in parts)) for parts in zip(*spread, strict=True)]
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
    budget.reserve(shape, kind.itemsize, f"{node.name} (Where)")
    chosen = np.where(condition.astype(bool), yes, no)  # bool() of a symbolic condition adds a guard, as in torch
    return settle(chosen, kind) if chosen.dtype == object else chosen


def _cast(node: Node, inputs: list[Array], budget: Budget) -> Array | None:
    from onnx import helper

    kind = helper.tensor_dtype_to_np_dtype(int(node.get("to")))
    (x,) = inputs[:1]
    if kind.kind not in "iufb" or kind.itemsize > 8:
        return None
    budget.reserve(x.shape, kind.itemsize, f"{node.name} (Cast)")
    if not is_symbolic(x):
        with np.errstate(all="ignore"):
            return x.astype(kind)
    convert: Callable[[Any], Any] = torch.sym_float if kind.kind == "f" else bool if kind.kind == "b" else torch.sym_int
    result = np.empty(x.shape, dtype=object)
    result.reshape(-1)[:] = [convert(value) for value in x.reshape(-1)]
    return settle(result, kind)


def _gather(node: Node, inputs: list[Array], budget: Budget) -> Array:
    data, indices = inputs
    axis = int(node.get("axis", 0))
    shape = (*data.shape[: axis % data.ndim], *indices.shape, *data.shape[axis % data.ndim + 1 :])
    budget.reserve(shape, data.dtype.itemsize, f"{node.name} (Gather)")
    size = data.shape[axis]
    if indices.size and (indices.min() < -size or indices.max() >= size):
        raise IndexError(f"an index is out of range for the {size} elements of axis {axis}")
    taken = np.take(data, indices.astype(np.int64), axis=axis)
    return settle(taken) if data.dtype == object else np.asarray(taken)


def _concat(node: Node, inputs: list[Array], budget: Budget) -> Array:
    axis = int(node.get("axis", 0))
    budget.reserve((sum(value.size for value in inputs),), 8, f"{node.name} (Concat)")
    if any(is_symbolic(value) for value in inputs):
        return settle(np.concatenate([value.astype(object) for value in inputs], axis))
    return np.concatenate(inputs, axis)


def _axes(node: Node, inputs: Sequence[Array | None]) -> list[int] | None:
    if len(inputs) > 1 and inputs[1] is not None:
        return [int(axis) for axis in inputs[1].reshape(-1)]
    given = node.get("axes")
    return None if given is None else [int(axis) for axis in given]


def _squeeze(node: Node, inputs: list[Array], budget: Budget) -> Array:
    axes = _axes(node, inputs)
    return np.squeeze(inputs[0], axis=None if axes is None else tuple(axes))


def _unsqueeze(node: Node, inputs: list[Array], budget: Budget) -> Array:
    return np.expand_dims(inputs[0], tuple(_axes(node, inputs) or ()))


def _slice(node: Node, inputs: list[Array], budget: Budget) -> Array:
    x = inputs[0]
    if node.opset < 10:
        starts, ends, axes, steps = node.get("starts"), node.get("ends"), node.get("axes"), None
    else:
        rest = [None if value is None else value.reshape(-1).tolist() for value in inputs[1:]]
        starts, ends, axes, steps = (*rest, None, None)[:4]
    index = [slice(None)] * x.ndim
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis = int(axes[i]) if axes is not None else i
        step = int(steps[i]) if steps is not None else 1
        size = x.shape[axis]
        low, high = _clamped(start, end, size, step)
        index[axis] = slice(low, high, step)
    return x[tuple(index)]


def _clamped(start: Any, end: Any, size: int, step: int) -> tuple[int, int | None]:
    first, last = int(start), int(end)
    first, last = first + size if first < 0 else first, last + size if last < 0 else last
    if step > 0:
        return max(0, min(first, size)), max(0, min(last, size))
    last = max(-1, min(last, size - 1))
    return max(0, min(first, size - 1)), None if last < 0 else last


def _reshape(node: Node, inputs: list[Array], budget: Budget) -> Array:
    x = inputs[0]
    shape = [int(size) for size in (inputs[1].reshape(-1).tolist() if len(inputs) > 1 else node.get("shape"))]
    if not node.get("allowzero", 0):
        shape = [x.shape[i] if size == 0 else size for i, size in enumerate(shape)]
    return x.reshape(shape)


def _known_shape(value: Array) -> list[int] | None:
    return None if is_symbolic(value) else [int(size) for size in value.reshape(-1)]


def _constant_of_shape(node: Node, inputs: list[Array], budget: Budget) -> Array | None:
    shape = _known_shape(inputs[0])
    if shape is None:
        return None
    fill = np.asarray(node.get("value", np.zeros(1, np.float32))).reshape(-1)[0]
    budget.reserve(shape, fill.dtype.itemsize, f"{node.name} (ConstantOfShape) of shape {shape}")
    return np.full(shape, fill, dtype=fill.dtype)


def _expand(node: Node, inputs: list[Array], budget: Budget) -> Array | None:
    shape = _known_shape(inputs[1])
    if shape is None:
        return None
    full = np.broadcast_shapes(inputs[0].shape, tuple(shape))
    budget.reserve(full, inputs[0].dtype.itemsize, f"{node.name} (Expand) to shape {shape}")
    return np.broadcast_to(inputs[0], full).copy()


def _tile(node: Node, inputs: list[Array], budget: Budget) -> Array | None:
    repeats = _known_shape(inputs[1])
    if repeats is None:
        return None
    shape = [size * times for size, times in zip(inputs[0].shape, repeats, strict=True)]
    budget.reserve(shape, inputs[0].dtype.itemsize, f"{node.name} (Tile) to shape {shape}")
    return np.tile(inputs[0], repeats)


def _range(node: Node, inputs: list[Array], budget: Budget) -> Array | None:
    if any(is_symbolic(value) for value in inputs):
        return None
    start, limit, delta = (value.reshape(-1)[0] for value in inputs)
    if delta == 0:
        raise ValueError("Range with a step of 0")
    count = max(0, math.ceil((float(limit) - float(start)) / float(delta)))
    budget.reserve((count,), start.dtype.itemsize, f"{node.name} (Range) of {count} elements")
    return np.asarray(start + np.arange(count, dtype=start.dtype) * delta, dtype=start.dtype)


def _reduce(function: Callable[..., Any], numpy_function: Callable[..., Any]) -> Callable[..., Array]:
    def rule(node: Node, inputs: list[Array], budget: Budget) -> Array:
        x, axes, keep = inputs[0], _axes(node, inputs), bool(node.get("keepdims", 1))
        if not axes and node.get("noop_with_empty_axes", 0):
            return x
        if is_symbolic(x):
            if x.ndim != 1:
                raise ValueError(f"{node.op} of symbolic sizes over several axes")
            return settle([reduce(function, x)] if keep else reduce(function, x))
        return np.asarray(numpy_function(x, axis=tuple(axes) if axes else None, keepdims=keep)).astype(x.dtype)

    return rule


def _identity(node: Node, inputs: list[Array], budget: Budget) -> Array:
    return inputs[0]


def _shape_of(node: Node, inputs: list[Array], budget: Budget) -> Array:
    shape = np.array(inputs[0].shape, dtype=np.int64)
    return shape[node.get("start", 0) : node.get("end", len(shape))]


def _size_of(node: Node, inputs: list[Array], budget: Budget) -> Array:
    return np.array(inputs[0].size, dtype=np.int64)


def _transpose(node: Node, inputs: list[Array], budget: Budget) -> Array:
    return np.transpose(inputs[0], node.get("perm"))


_RULES: dict[str, Callable[..., Array | None]] = {
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
    "And": _elementwise(_and, np.bool_),
    "Or": _elementwise(_or, np.bool_),
    "Not": _elementwise(np.logical_not, np.bool_),
    "Where": _where,
    "Cast": _cast,
    "Gather": _gather,
    "Concat": _concat,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Slice": _slice,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Identity": _identity,
    "Shape": _shape_of,
    "Size": _size_of,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Tile": _tile,
    "Range": _range,
    "ReduceProd": _reduce(operator.mul, np.prod),
    "ReduceSum": _reduce(operator.add, np.sum),
    "ReduceMax": _reduce(_maximum, np.max),
    "ReduceMin": _reduce(_minimum, np.min),
}
