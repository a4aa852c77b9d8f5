"""Shape arithmetic in numpy while tracing: Shape -> Gather -> Concat -> Reshape chains leave no trace in the graph.

Arrays may have dtype object and hold symbolic sizes. Only small values are folded here: weights stay visible as parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from effc.frontends.onnx.limits import Limits
from effc.frontends.onnx.operators.base import Node, integers

__all__ = ["FOLDABLE", "foldable"]

_SMALL = 1 << 16  # elements: larger floating-point constants are weights
Array = np.ndarray[Any, Any]


def foldable(node: Node, inputs: Sequence[Array | None], limits: Limits) -> bool:
    """Whether a node with known inputs is computed now. Raises LimitError when its result would be too large."""
    if node.domain or node.op not in FOLDABLE:
        return False
    if any(x is not None and x.dtype.kind == "f" and x.size > _SMALL for x in inputs):
        return False
    elements = _elements(node, inputs)
    limits.check("tensor_elements", elements, f"{node.name} ({node.op}): elements of the result")
    return elements <= max(_SMALL, *(x.size for x in inputs if x is not None), 0) if inputs else True


def _elements(node: Node, inputs: Sequence[Array | None]) -> int:
    """An upper bound of the elements of the result, found without computing it."""
    sizes = [x.size for x in inputs if x is not None]
    first = inputs[0] if inputs else None
    if first is None:
        return max(sizes, default=1)
    if node.op in ("ConstantOfShape", "Expand"):
        target = first if node.op == "ConstantOfShape" else inputs[1]
        wanted = [abs(one) for one in integers(target) if isinstance(one, int)]  # type: ignore[arg-type]
        return math.prod(wanted) * (1 if node.op == "ConstantOfShape" else max(1, first.size))
    if node.op == "Tile":
        return first.size * math.prod(max(1, one) for one in integers(inputs[1]) if isinstance(one, int))  # type: ignore[arg-type]
    if node.op == "Range":
        start, limit, delta = (x.item() for x in inputs[:3] if x is not None)
        return max(0, math.ceil((limit - start) / delta)) if all(isinstance(one, (int, float)) for one in (start, limit, delta)) and delta else 1
    if node.op == "Gather" and inputs[1] is not None:
        return inputs[1].size * max(1, first.size)
    try:
        return max(math.prod(np.broadcast_shapes(*(x.shape for x in inputs if x is not None))), *sizes)
    except ValueError:
        return sum(sizes)


def _divide(a: Array, b: Array) -> Array:
    """ONNX divides integers towards zero."""
    if a.dtype == object or b.dtype == object:
        return np.asarray(a // b, dtype=object)  # sizes are not negative
    if a.dtype.kind == "f":
        return np.asarray(a / b)
    quotient = np.abs(a) // np.abs(b)
    return np.asarray(np.where((a < 0) != (b < 0), -quotient, quotient).astype(a.dtype))


def _mod(node: Node, a: Array, b: Array) -> Array:
    return np.asarray(np.fmod(a, b) if node.get("fmod", 0) else a % b)


def _gather(node: Node, data: Array, indices: Array) -> Array:
    return np.asarray(np.take(data, indices.astype(np.int64), axis=node.get("axis", 0)))


def _axes(node: Node, axes: Array | None) -> tuple[int, ...] | None:
    given = node.get("axes") if axes is None else [int(axis) for axis in axes.reshape(-1)]
    return None if given is None else tuple(given)


def _unsqueeze(node: Node, data: Array, axes: Array | None = None) -> Array:
    return np.expand_dims(data, _axes(node, axes) or ())


def _squeeze(node: Node, data: Array, axes: Array | None = None) -> Array:
    return np.squeeze(data, _axes(node, axes))


def _slice(node: Node, data: Array, *bounds: Array | None) -> Array:
    if node.opset < 10:
        starts, ends = node.get("starts"), node.get("ends")
        axes, steps = node.get("axes") or range(len(starts)), [1] * len(starts)
    else:
        starts, ends = (integers(x) for x in bounds[:2] if x is not None)
        axes = integers(bounds[2]) if len(bounds) > 2 and bounds[2] is not None else range(len(starts))
        steps = integers(bounds[3]) if len(bounds) > 3 and bounds[3] is not None else [1] * len(starts)
    cut = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        cut[axis] = slice(start, None if step < 0 and end < -data.shape[axis] else end, step)
    return data[tuple(cut)]


def _cast(node: Node, data: Array) -> Array:
    import onnx.helper

    kind = onnx.helper.tensor_dtype_to_np_dtype(node.attributes["to"])
    return data if data.dtype == object and kind.kind in "iu" else data.astype(kind)


def _reshape(node: Node, data: Array, shape: Array) -> Array:
    sizes = integers(shape)
    if not node.get("allowzero", 0):
        sizes = [data.shape[index] if size == 0 else size for index, size in enumerate(sizes)]
    return data.reshape(sizes)


def _constant_of_shape(node: Node, shape: Array) -> Array:
    value = np.asarray(node.get("value", np.zeros(1, np.float32))).reshape(-1)[0]
    return np.full(integers(shape), value)


def _reduce(function: Callable[..., Any]) -> Callable[..., Array]:
    def reduced(node: Node, data: Array, axes: Array | None = None) -> Array:
        over = _axes(node, axes)
        if not over and node.get("noop_with_empty_axes", 0):
            return data
        return np.asarray(function(data, axis=over or None, keepdims=bool(node.get("keepdims", 1))))

    return reduced


def _binary(function: Callable[..., Any]) -> Callable[..., Array]:
    return lambda node, a, b: np.asarray(function(a, b))


def _unary(function: Callable[..., Any]) -> Callable[..., Array]:
    return lambda node, a: np.asarray(function(a))


FOLDABLE: dict[str, Callable[..., Any]] = {
    "Add": _binary(lambda a, b: a + b),
    "Sub": _binary(lambda a, b: a - b),
    "Mul": _binary(lambda a, b: a * b),
    "Div": _binary(_divide),
    "Mod": _mod,
    "Neg": _unary(lambda a: -a),
    "Abs": _unary(abs),
    "Equal": _binary(lambda a, b: a == b),
    "Less": _binary(lambda a, b: a < b),
    "Greater": _binary(lambda a, b: a > b),
    "Not": _unary(np.logical_not),
    "And": _binary(np.logical_and),
    "Or": _binary(np.logical_or),
    "Floor": _unary(np.floor),
    "Ceil": _unary(np.ceil),
    "Identity": _unary(lambda a: a),
    "Cast": _cast,
    "Concat": lambda node, *parts: np.concatenate(parts, axis=node.attributes["axis"]),
    "Gather": _gather,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Slice": _slice,
    "Reshape": _reshape,
    "Shape": lambda node, x: np.asarray(x.shape[node.get("start", 0) : node.get("end", None)], np.int64),
    "Size": lambda node, x: np.asarray(x.size, np.int64),
    "Transpose": lambda node, x: np.transpose(x, node.get("perm")),
    "Expand": lambda node, x, shape: np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(integers(shape)))).copy(),
    "Tile": lambda node, x, repeats: np.tile(x, integers(repeats)),
    "Range": lambda node, start, limit, delta: np.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype),
    "ConstantOfShape": _constant_of_shape,
    "Where": lambda node, condition, a, b: np.where(condition.astype(bool), a, b),
    "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum),
    "ReduceMax": _reduce(np.max),
    "ReduceMin": _reduce(np.min),
}
