"""Gather, scatter, one-hot: where elements are addressed by index tensors. Negative indices count from the end."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from effc.frontends.onnx.operators.base import Node, Operator, Unsupported, integers

__all__ = ["OPERATORS"]


def _wrapped(indices: Tensor, size: Any) -> Tensor:
    long = indices.to(torch.int64)
    return torch.where(long < 0, long + size, long)


def _gather(node: Node, data: Tensor, indices: Tensor) -> Tensor:
    axis = node.get("axis", 0) % data.ndim
    flat = _wrapped(indices, data.shape[axis]).reshape(-1)
    return data.index_select(axis, flat).reshape([*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :]])


def _gather_elements(node: Node, data: Tensor, indices: Tensor) -> Tensor:
    axis = node.get("axis", 0) % data.ndim
    return torch.gather(data, axis, _wrapped(indices, data.shape[axis]))


def _gather_nd(node: Node, data: Tensor, indices: Tensor) -> Tensor:
    batch = node.get("batch_dims", 0)
    depth = indices.shape[-1]
    sizes = [int(size) for size in data.shape[: batch + depth]]
    lead, rest = sizes[:batch], list(data.shape[batch + depth :])
    position = torch.zeros(indices.shape[:-1], dtype=torch.int64)
    for i in range(depth):
        position = position * sizes[batch + i] + _wrapped(indices[..., i], sizes[batch + i])
    inner = math.prod(sizes[batch:])
    offset = torch.arange(math.prod(lead)).reshape([*lead, *[1] * (indices.ndim - 1 - batch)]) * inner if batch else 0
    flat = data.reshape([math.prod(sizes), *rest])
    return flat.index_select(0, (position + offset).reshape(-1)).reshape([*indices.shape[:-1], *rest])


_REDUCE = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _scatter_elements(node: Node, data: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    axis = node.get("axis", 0) % data.ndim
    where = _wrapped(indices, data.shape[axis])
    how = node.get("reduction", "none")
    if how == "none":
        return data.scatter(axis, where, updates)
    return data.scatter_reduce(axis, where, updates, _REDUCE[how], include_self=True)


def _scatter_nd(node: Node, data: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    depth = indices.shape[-1]
    sizes = [int(size) for size in data.shape[:depth]]
    position = torch.zeros(indices.shape[:-1], dtype=torch.int64)
    for i in range(depth):
        position = position * sizes[i] + _wrapped(indices[..., i], sizes[i])
    rest = list(data.shape[depth:])
    width = math.prod(rest)
    flat = data.reshape([math.prod(sizes), width])
    where = position.reshape(-1, 1).expand(-1, width)
    values = updates.reshape(-1, width)
    how = node.get("reduction", "none")
    written = flat.scatter(0, where, values) if how == "none" else flat.scatter_reduce(0, where, values, _REDUCE[how], include_self=True)
    return written.reshape(data.shape)


def _one_hot(node: Node, indices: Tensor, depth: Any, values: Tensor) -> Tensor:
    count = integers(depth)[0] if depth.dtype.kind in "iu" else int(depth.reshape(-1)[0])
    axis = node.get("axis", -1) % (indices.ndim + 1)
    long = indices.to(torch.int64)
    long = torch.where(long < 0, long + count, long)
    hot = long.unsqueeze(axis) == torch.arange(count).reshape([-1 if i == axis else 1 for i in range(indices.ndim + 1)])
    return torch.where(hot, values[1], values[0])


def _compress(node: Node, data: Tensor, condition: Any) -> Tensor:
    keep = [index for index, flag in enumerate(condition.reshape(-1).tolist()) if flag]
    axis = node.get("axis")
    flat = data if axis is not None else data.reshape(-1)
    return flat.index_select(0 if axis is None else axis % data.ndim, torch.tensor(keep, dtype=torch.int64))


def _reverse_sequence(node: Node, x: Tensor, lengths: Any) -> Tensor:
    time, batch = node.get("time_axis", 0), node.get("batch_axis", 1)
    if {time, batch} != {0, 1}:
        raise Unsupported("time and batch must be the two leading axes")
    rows = []
    for index, length in enumerate(integers(lengths)):
        row = x.select(batch, index)
        rows.append(torch.cat([row[:length].flip(0), row[length:]]))
    return torch.stack(rows, dim=batch)


OPERATORS: tuple[Operator, ...] = (
    Operator("Gather", _gather),
    Operator("GatherElements", _gather_elements),
    Operator("GatherND", _gather_nd),
    Operator("ScatterElements", _scatter_elements),
    Operator("Scatter", _scatter_elements),
    Operator("ScatterND", _scatter_nd),
    Operator("OneHot", _one_hot, known=(1,)),
    Operator("Compress", _compress, known=(1,)),
    Operator("ReverseSequence", _reverse_sequence, known=(1,)),
)
