"""Folding by moving elements: shapes, slices, joins and fills, on numbers and on symbolic sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from effc.frontends.onnx.folding_arithmetic import axes_of
from effc.frontends.onnx.limits import Budget
from effc.frontends.onnx.operators.base import Node
from effc.frontends.onnx.symbolic import Array, is_symbolic, itemsize, settle

__all__ = ["MOVES"]


def _gather(node: Node, inputs: list[Array], budget: Budget) -> Array:
    data, indices = inputs
    axis = int(node.get("axis", 0))
    shape = (*data.shape[: axis % data.ndim], *indices.shape, *data.shape[axis % data.ndim + 1 :])
    budget.reserve(shape, itemsize(data.dtype, data), f"{node.name} (Gather)")
    size = data.shape[axis]
    if indices.size and (indices.min() < -size or indices.max() >= size):
        raise IndexError(f"an index is out of range for the {size} elements of axis {axis}")
    taken = np.take(data, indices.astype(np.int64), axis=axis)
    return settle(taken) if data.dtype == object else np.asarray(taken)


def _gather_elements(node: Node, inputs: list[Array], budget: Budget) -> Array | None:
    data, indices = inputs
    if is_symbolic(indices):
        return None
    axis = int(node.get("axis", 0)) % data.ndim
    budget.reserve(indices.shape, itemsize(data.dtype, data), f"{node.name} (GatherElements)")
    beside = tuple(slice(None) if i == axis else slice(size) for i, size in enumerate(indices.shape))
    taken = np.take_along_axis(data[beside], indices.astype(np.int64), axis)
    return settle(taken) if data.dtype == object else taken


def _concat(node: Node, inputs: list[Array], budget: Budget) -> Array:
    axis = int(node.get("axis", 0))
    budget.reserve((sum(value.size for value in inputs),), max(itemsize(value.dtype, *inputs) for value in inputs), f"{node.name} (Concat)")
    if any(is_symbolic(value) for value in inputs):
        return settle(np.concatenate([value.astype(object) for value in inputs], axis))
    return np.concatenate(inputs, axis)


def _squeeze(node: Node, inputs: list[Array], budget: Budget) -> Array:
    axes = axes_of(node, inputs)
    return np.squeeze(inputs[0], axis=None if axes is None else tuple(axes))


def _unsqueeze(node: Node, inputs: list[Array], budget: Budget) -> Array:
    return np.expand_dims(inputs[0], tuple(axes_of(node, inputs) or ()))


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
    budget.reserve(full, itemsize(inputs[0].dtype, inputs[0]), f"{node.name} (Expand) to shape {shape}")
    return np.broadcast_to(inputs[0], full).copy()


def _tile(node: Node, inputs: list[Array], budget: Budget) -> Array | None:
    repeats = _known_shape(inputs[1])
    if repeats is None:
        return None
    shape = [size * times for size, times in zip(inputs[0].shape, repeats, strict=True)]
    budget.reserve(shape, itemsize(inputs[0].dtype, inputs[0]), f"{node.name} (Tile) to shape {shape}")
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


def _identity(node: Node, inputs: list[Array], budget: Budget) -> Array:
    return inputs[0]


def _shape_of(node: Node, inputs: list[Array], budget: Budget) -> Array:
    shape = np.array(inputs[0].shape, dtype=np.int64)
    return shape[node.get("start", 0) : node.get("end", len(shape))]


def _size_of(node: Node, inputs: list[Array], budget: Budget) -> Array:
    return np.array(inputs[0].size, dtype=np.int64)


def _transpose(node: Node, inputs: list[Array], budget: Budget) -> Array:
    return np.transpose(inputs[0], node.get("perm"))


MOVES: dict[str, Callable[..., Array | None]] = {
    "Gather": _gather,
    "GatherElements": _gather_elements,
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
}
