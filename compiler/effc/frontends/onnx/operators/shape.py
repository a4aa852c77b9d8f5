"""Shapes and layout: what moves or repeats elements without computing on them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from effc.frontends.onnx.operators.base import Node, Operator, Unsupported, integers
from effc.frontends.onnx.operators.helpers import axes_of

__all__ = ["OPERATORS"]


def _sizes(sizes: list[Any]) -> np.ndarray[Any, Any]:
    plain = all(isinstance(size, int) for size in sizes)
    array = np.empty(len(sizes), np.int64 if plain else object)
    array[:] = sizes
    return array


def _shape(node: Node, x: Tensor) -> np.ndarray[Any, Any]:
    return _sizes(list(x.shape[slice(node.get("start", 0), node.get("end", None))]))


def _size(node: Node, x: Tensor) -> np.ndarray[Any, Any]:
    return _sizes([math.prod(x.shape)]).reshape(())


def _reshape(node: Node, x: Tensor, shape: Any) -> Tensor:
    sizes = integers(shape)
    if not node.get("allowzero", 0):
        sizes = [x.shape[index] if isinstance(size, int) and size == 0 else size for index, size in enumerate(sizes)]
    return x.reshape(sizes)


def _flatten(node: Node, x: Tensor) -> Tensor:
    axis = node.get("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    if axis == 0:
        return x.reshape(1, -1)
    if axis == x.ndim:
        return x.reshape(-1, 1)
    return x.flatten(axis).flatten(0, axis - 1) if axis > 1 else x.flatten(axis)


def _squeeze(node: Node, x: Tensor, axes: Any = None) -> Tensor:
    over = axes_of(node, axes, x.ndim)
    return x.squeeze(over) if over else x.squeeze()


def _unsqueeze(node: Node, x: Tensor, axes: Any = None) -> Tensor:
    given = integers(axes) if axes is not None else list(node.attributes["axes"])
    rank = x.ndim + len(given)
    for axis in sorted(int(axis) % rank for axis in given):
        x = x.unsqueeze(axis)
    return x


def _transpose(node: Node, x: Tensor) -> Tensor:
    return x.permute(list(node.get("perm") or reversed(range(x.ndim))))


def _expand(node: Node, x: Tensor, shape: Any) -> Tensor:
    sizes = integers(shape)
    rank = max(x.ndim, len(sizes))
    wide = [1] * (rank - len(sizes)) + sizes
    own = [1] * (rank - x.ndim) + list(x.shape)
    return x.expand([mine if isinstance(size, int) and size == 1 else size for size, mine in zip(wide, own, strict=True)])


def _slice(node: Node, x: Tensor, *bounds: Any) -> Tensor:
    if node.opset < 10:
        starts, ends = list(node.attributes["starts"]), list(node.attributes["ends"])
        axes, steps = list(node.get("axes") or range(len(starts))), [1] * len(starts)
    else:
        starts, ends = integers(bounds[0]), integers(bounds[1])
        axes = integers(bounds[2]) if len(bounds) > 2 and bounds[2] is not None else list(range(len(starts)))
        steps = integers(bounds[3]) if len(bounds) > 3 and bounds[3] is not None else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 0:
            indices = list(range(int(x.shape[axis])))[start : (None if end < -int(x.shape[axis]) else end) : step]
            x = x.index_select(axis, torch.tensor(indices, dtype=torch.int64))
        else:
            x = torch.ops.aten.slice.Tensor(x, axis % x.ndim, start, end, step)
    return x


def _concat(node: Node, *parts: Tensor) -> Tensor:
    return torch.cat(parts, dim=node.get("axis", 1))


def _split(node: Node, x: Tensor, sizes: Any = None) -> tuple[Tensor, ...]:
    axis = node.get("axis", 0) % x.ndim
    given = integers(sizes) if sizes is not None else node.get("split")
    if given is None:
        count = node.get("num_outputs") or len(node.outputs)
        chunk = -(-int(x.shape[axis]) // count)
        given = [min(chunk, int(x.shape[axis]) - chunk * i) for i in range(count)]
    return torch.split(x, [int(size) for size in given], dim=axis)


def _pad(node: Node, x: Tensor, *more: Any) -> Tensor:
    if node.opset < 11:
        pads, value, axes = list(node.attributes["pads"]), node.get("value", 0.0), None
    else:
        pads = integers(more[0])
        value = more[1].item() if len(more) > 1 and more[1] is not None and more[1].size else 0
        axes = integers(more[2]) if len(more) > 2 and more[2] is not None else None
    half = len(pads) // 2
    over = [axis % x.ndim for axis in axes] if axes is not None else list(range(half))
    begin, end = [0] * x.ndim, [0] * x.ndim
    for position, axis in enumerate(over):
        begin[axis], end[axis] = pads[position], pads[position + half]
    mode = node.get("mode", "constant")
    if mode == "constant":
        flat = [size for pair in zip(reversed(begin), reversed(end), strict=True) for size in pair]
        if x.dtype == torch.bool:
            return F.pad(x.to(torch.uint8), flat, value=int(value)).to(torch.bool)
        return F.pad(x, flat, value=value)
    for axis, (left, right) in enumerate(zip(begin, end, strict=True)):
        if left or right:
            x = x.index_select(axis, torch.tensor(_padded_indices(int(x.shape[axis]), left, right, mode), dtype=torch.int64))
    return x


def _padded_indices(size: int, left: int, right: int, mode: str) -> list[int]:
    """Which source element each position of a padded axis shows."""
    positions = range(-left, size + right)
    if mode == "edge":
        return [min(max(i, 0), size - 1) for i in positions]
    if mode == "wrap":
        return [i % size for i in positions]
    if mode == "reflect":
        period = max(1, 2 * (size - 1))
        return [min(i % period, period - i % period) if size > 1 else 0 for i in positions]
    raise Unsupported(f"mode {mode!r}", "constant, edge, reflect and wrap work")


def _depth_to_space(node: Node, x: Tensor) -> Tensor:
    block, (n, c, h, w) = node.attributes["blocksize"], x.shape
    if node.get("mode", "DCR") == "CRD":
        return x.reshape(n, c // block**2, block, block, h, w).permute(0, 1, 4, 2, 5, 3).reshape(n, c // block**2, h * block, w * block)
    return x.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // block**2, h * block, w * block)


def _space_to_depth(node: Node, x: Tensor) -> Tensor:
    block, (n, c, h, w) = node.attributes["blocksize"], x.shape
    return x.reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4).reshape(n, c * block**2, h // block, w // block)


def _constant_of_shape(node: Node, shape: Any) -> Tensor:
    value = torch.as_tensor(np.asarray(node.get("value", np.zeros(1, np.float32))).reshape(-1)[:1].copy())
    return value.reshape(()).expand(integers(shape)).clone()


def _tril(node: Node, x: Tensor, k: Any = None) -> Tensor:
    diagonal = 0 if k is None else integers(k)[0]
    return torch.triu(x, diagonal) if node.get("upper", 1) else torch.tril(x, diagonal)


def _eye_like(node: Node, x: Tensor) -> Tensor:
    from effc.frontends.onnx.operators.helpers import torch_dtype

    kind = torch_dtype(node.attributes["dtype"]) if node.get("dtype") is not None else x.dtype
    rows, columns = torch.arange(x.shape[0]).unsqueeze(1), torch.arange(x.shape[1])
    return (columns == rows + node.get("k", 0)).to(kind)


OPERATORS: tuple[Operator, ...] = (
    Operator("Shape", _shape),
    Operator("Size", _size),
    Operator("Reshape", _reshape, since=5, known=(1,)),
    Operator("Flatten", _flatten),
    Operator("Squeeze", _squeeze, known=(1,)),
    Operator("Unsqueeze", _unsqueeze, known=(1,)),
    Operator("Transpose", _transpose),
    Operator("Expand", _expand, known=(1,)),
    Operator("Tile", lambda node, x, repeats: x.repeat(integers(repeats)), since=6, known=(1,)),
    Operator("Slice", _slice, known=(1, 2, 3, 4)),
    Operator("Concat", _concat, since=4),
    Operator("Split", _split, known=(1,)),
    Operator("Pad", _pad, since=2, known=(1, 2, 3)),
    Operator("DepthToSpace", _depth_to_space),
    Operator("SpaceToDepth", _space_to_depth),
    Operator("ConstantOfShape", _constant_of_shape, known=(0,)),
    Operator("Trilu", _tril, known=(1,)),
    Operator("EyeLike", _eye_like),
)
