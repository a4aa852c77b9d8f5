"""Operators that pick, place or order elements. Negative indices are counted from the end before torch sees them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from effc.frontends.onnx.operators.base import Node, Operator, Unsupported, Value
from effc.frontends.onnx.operators.values import folds, ints, is_constant, normal_axis, number, tensor

__all__ = ["OPERATORS"]


def _indices(value: Value, size: Any) -> Tensor:
    """Indices as non-negative int64."""
    if is_constant(value):
        array = np.asarray(value)
        if array.dtype != object and isinstance(size, int):
            array = array.astype(np.int64)
            if array.size and (array.min() < -size or array.max() >= size):
                raise Unsupported(f"an index outside of an axis of {size} elements", "the file is malformed; check it with onnx.checker")
            return torch.tensor(np.where(array < 0, array + size, array))
        if array.dtype != object and (not array.size or array.min() >= 0):
            return torch.tensor(array.astype(np.int64))
    index = tensor(value).to(torch.int64)
    return torch.where(index < 0, index + size, index)


def _gather_constants(node: Node, x: Any, index: Any) -> Any:
    return np.asarray(np.take(x, np.asarray(index).astype(np.int64), axis=int(node.get("axis", 0))))


@folds(_gather_constants)
def gather(node: Node, x: Value, index: Value) -> Tensor:
    x = tensor(x)
    axis = normal_axis(int(node.get("axis", 0)), x.ndim)
    if is_constant(index) and index is not None and index.ndim == 0 and index.dtype != object and isinstance(x.shape[axis], int):
        return torch.select(x, axis, int(_indices(index, x.shape[axis])))
    wanted = _indices(index, x.shape[axis])
    if axis == 0 and x.ndim == 2 and x.is_floating_point():
        return torch.nn.functional.embedding(wanted, x)
    picked = torch.index_select(x, axis, wanted.reshape(-1))
    return picked.reshape(*x.shape[:axis], *wanted.shape, *x.shape[axis + 1 :])


def gather_elements(node: Node, x: Value, index: Value) -> Tensor:
    x = tensor(x)
    axis = normal_axis(int(node.get("axis", 0)), x.ndim)
    return torch.gather(x, axis, _indices(index, x.shape[axis]))


def gather_nd(node: Node, x: Value, index: Value) -> Tensor:
    x, index = tensor(x), tensor(index).to(torch.int64)
    batch, depth = int(node.get("batch_dims", 0)), index.shape[-1]
    coordinates: list[Tensor] = []
    for dim in range(batch):
        view = [1] * (index.ndim - 1)
        view[dim] = -1
        coordinates.append(torch.arange(x.shape[dim]).reshape(view).expand(index.shape[:-1]))
    for i in range(depth):
        column = index[..., i]
        coordinates.append(torch.where(column < 0, column + x.shape[batch + i], column))
    return x[tuple(coordinates)]


def _bounds(node: Node, dims: int, starts: Value, ends: Value, axes: Value, steps: Value) -> list[tuple[int, Any, Any, int]]:
    """(axis, start, end, step) of every sliced axis."""
    if node.opset < 10:
        first, last = node.get("starts"), node.get("ends")
        where, by = node.get("axes"), None
    else:
        first, last = ints(starts, "starts"), ints(ends, "ends")
        where = None if axes is None else ints(axes, "axes")
        by = None if steps is None else ints(steps, "steps")
    where = range(len(first)) if where is None else where
    by = [1] * len(first) if by is None else by
    return [(normal_axis(int(a), dims), s, e, int(k)) for a, s, e, k in zip(where, first, last, by, strict=True)]


def _slice_constants(node: Node, x: Any, starts: Any = None, ends: Any = None, axes: Any = None, steps: Any = None) -> Any:
    cut = [slice(None)] * x.ndim
    for axis, start, end, step in _bounds(node, x.ndim, starts, ends, axes, steps):
        size = x.shape[axis]
        cut[axis] = slice(*_clipped(int(start), int(end), step, size), step)
    return x[tuple(cut)]


def _clipped(start: int, end: int, step: int, size: int) -> tuple[int, int | None]:
    """Python's slice bounds of ONNX's: for a negative step an end before the first element is None."""
    start = start + size if start < 0 else start
    end = end + size if end < 0 else end
    if step > 0:
        return min(max(start, 0), size), min(max(end, 0), size)
    start, end = min(max(start, -1), size - 1), min(max(end, -1), size - 1)
    if start < 0:
        return 0, 0
    return start, None if end < 0 else end


@folds(_slice_constants)
def slice_(node: Node, given: Value, starts: Value = None, ends: Value = None, axes: Value = None, steps: Value = None) -> Tensor:
    x: Tensor = tensor(given)
    for axis, start, end, step in _bounds(node, x.ndim, starts, ends, axes, steps):
        size = x.shape[axis]
        if step == 0:
            raise Unsupported("a slice with step 0", "the file is malformed; check it with onnx.checker")
        if isinstance(size, int) and isinstance(start, int) and isinstance(end, int):
            first, last = _clipped(start, end, step, size)
            if step > 0:
                whole = first == 0 and last == size and step == 1
                x = x if whole else torch.ops.aten.slice.Tensor(x, axis, first, max(last or 0, first), step)
            else:
                kept = np.arange(size)[first:last:step].copy()
                x = torch.flip(x, (axis,)) if len(kept) == size else torch.index_select(x, axis, torch.tensor(kept, dtype=torch.int64))
        elif step > 0:
            x = torch.ops.aten.slice.Tensor(x, axis, start, end, step)
        elif step == -1 and start == -1 and isinstance(end, int) and end < -(1 << 31):
            x = torch.flip(x, (axis,))
        else:
            raise Unsupported("a slice with a negative step along an axis of symbolic size", "fix the size with --input-shape")
    return x


def scatter_elements(node: Node, x: Value, index: Value, updates: Value) -> Tensor:
    x, updates = tensor(x), tensor(updates)
    axis = normal_axis(int(node.get("axis", 0)), x.ndim)
    index = _indices(index, x.shape[axis])
    kind = node.get("reduction", "none")
    if kind == "none":
        return torch.scatter(x, axis, index, updates)
    return torch.scatter_reduce(x, axis, index, updates, {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}[kind])


def scatter_nd(node: Node, x: Value, index: Value, updates: Value) -> Tensor:
    x, index, updates = tensor(x), tensor(index).to(torch.int64), tensor(updates)
    depth = index.shape[-1]
    columns = [index[..., i] for i in range(depth)]
    coordinates = tuple(torch.where(column < 0, column + x.shape[i], column) for i, column in enumerate(columns))
    kind = node.get("reduction", "none")
    if kind in ("none", "add"):
        return torch.index_put(x, coordinates, updates, accumulate=kind == "add")
    lead, tail = x.shape[:depth], x.shape[depth:]
    rows = torch.zeros_like(columns[0])
    for column, length in zip(coordinates, lead, strict=True):
        rows = rows * length + column
    flat = x.reshape(-1, *tail)
    where = rows.reshape(-1, *[1] * len(tail)).expand(-1, *tail)
    reduced = torch.scatter_reduce(flat, 0, where, updates.reshape(-1, *tail), {"mul": "prod", "max": "amax", "min": "amin"}[kind])
    return reduced.reshape(x.shape)


def tensor_scatter(node: Node, cache: Value, update: Value, starts: Value = None) -> Tensor:
    """Write `update` into `cache` along `axis`, batch entry b from position `starts[b]` on."""
    cache, update = tensor(cache), tensor(update)
    axis = normal_axis(int(node.get("axis", -2)), cache.ndim)
    length, count = cache.shape[axis], update.shape[axis]
    first = torch.zeros(cache.shape[0], dtype=torch.int64) if starts is None else tensor(starts).to(torch.int64)
    index = first.unsqueeze(1) + torch.arange(count)
    if node.get("mode", "linear") == "circular":
        index = torch.remainder(index, length)
    view = [1] * cache.ndim
    view[0], view[axis] = cache.shape[0], count
    return torch.scatter(cache, axis, index.reshape(view).expand(update.shape), update)


def one_hot(node: Node, index: Value, depth: Value, values: Value) -> Tensor:
    """Indices outside of [-depth, depth) give a row of the off value."""
    index, count, values = tensor(index), int(number(depth, "depth")), tensor(values)
    axis = normal_axis(int(node.get("axis", -1)), index.ndim + 1)
    index = index.to(torch.int64)
    wrapped = torch.where(index < 0, index + count, index).unsqueeze(axis)
    view = [1] * (index.ndim + 1)
    view[axis] = count
    return torch.where(torch.arange(count).reshape(view) == wrapped, values[1], values[0])


def top_k(node: Node, x: Value, k: Value = None) -> tuple[Tensor, Tensor]:
    x = tensor(x)
    axis = normal_axis(int(node.get("axis", -1)), x.ndim)
    count = int(node.get("k")) if node.opset < 10 else ints(k, "k")[0]
    largest = bool(node.get("largest", 1))
    if x.dtype in (torch.uint16, torch.uint32, torch.uint64):
        raise Unsupported("unsigned integers of more than 8 bits", "use int64")
    # a stable sort, because of equal elements the one with the lower index comes first
    values, indices = torch.sort(x, dim=axis, descending=largest, stable=True)
    return torch.narrow(values, axis, 0, count), torch.narrow(indices, axis, 0, count)


def _accumulate(node: Node, x: Value, axis: Value, function: Any, neutral: int) -> Tensor:
    x = tensor(x)
    dim = normal_axis(ints(axis, "axis")[0], x.ndim)
    if node.get("reverse", 0):
        x = torch.flip(x, (dim,))
    if node.get("exclusive", 0):
        kept = torch.narrow(x, dim, 0, x.shape[dim] - 1)
        x = torch.cat([torch.full_like(torch.narrow(x, dim, 0, 1), neutral), kept], dim)
    total = function(x, dim, dtype=x.dtype)
    return torch.flip(total, (dim,)) if node.get("reverse", 0) else total


def cum_sum(node: Node, x: Value, axis: Value) -> Tensor:
    return _accumulate(node, x, axis, torch.cumsum, 0)


def cum_prod(node: Node, x: Value, axis: Value) -> Tensor:
    return _accumulate(node, x, axis, torch.cumprod, 1)


def _data_dependent(node: Node, *inputs: Value) -> Value:
    raise Unsupported("the output's shape depends on the data", "bound it, for instance with TopK, or leave this part outside of the model")


OPERATORS = (
    Operator("CumProd", cum_prod, 26),
    Operator("CumSum", cum_sum, 11),
    Operator("Gather", gather, 1),
    Operator("GatherElements", gather_elements, 11),
    Operator("GatherND", gather_nd, 11),
    Operator("NonZero", _data_dependent, 9),
    Operator("OneHot", one_hot, 9, constants=(1, 2)),
    Operator("Scatter", scatter_elements, 9),
    Operator("ScatterElements", scatter_elements, 11),
    Operator("ScatterND", scatter_nd, 11),
    Operator("Slice", slice_, 1),
    Operator("TensorScatter", tensor_scatter, 24),
    Operator("TopK", top_k, 1),
    Operator("Unique", _data_dependent, 11),
)
