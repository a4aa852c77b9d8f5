"""Shapes and layout: operators that move elements without computing with them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from effc.frontends.onnx.operators.base import Node, Operator, Unsupported, Value
from effc.frontends.onnx.operators.values import axes_of, constant, dtype_of, folds, ints, normal_axis, shape_of, tensor

__all__ = ["OPERATORS"]


def shape(node: Node, x: Value) -> np.ndarray[Any, Any]:
    start, end = int(node.get("start", 0)), node.get("end")
    return shape_of(x)[start : None if end is None else int(end)]


def size(node: Node, x: Value) -> np.ndarray[Any, Any]:
    sizes = shape_of(x)
    if sizes.dtype == object:
        total = np.empty((), dtype=object)
        total[()] = math.prod(sizes.tolist())
        return total
    return np.asarray(np.prod(sizes, dtype=np.int64), dtype=np.int64)


def _target_shape(node: Node, x: Any, given: Value) -> list[Any]:
    wanted = ints(given, "the shape")
    if not node.get("allowzero", 0):
        if any(item == 0 and i >= x.ndim for i, item in enumerate(wanted) if isinstance(item, int)):
            raise Unsupported(f"shape {wanted} copies a size that the input of rank {x.ndim} has not")
        wanted = [x.shape[i] if isinstance(item, int) and item == 0 else item for i, item in enumerate(wanted)]
    if any(isinstance(item, int) and item == 0 for item in wanted):  # torch cannot infer -1 beside a 0
        rest = math.prod(item for item in wanted if not (isinstance(item, int) and item in (0, -1)))
        wanted = [0 if isinstance(item, int) and item == -1 and rest else item for item in wanted]
    return wanted


@folds(lambda node, x, given: np.reshape(x, _target_shape(node, x, given)))
def reshape(node: Node, x: Value, given: Value) -> Tensor:
    x = tensor(x)
    return x.reshape(_target_shape(node, x, given))


def flatten(node: Node, x: Value) -> Tensor:
    """Two dimensions: the sizes before `axis` multiplied, and those from it on."""
    x = tensor(x)
    axis = int(node.get("axis", 1))
    axis = axis + x.ndim if axis < 0 else axis
    if axis == 0:
        return x.reshape(1, -1) if x.numel() else x.reshape(1, 0)
    if axis == 1 and x.ndim >= 1:
        return x.flatten(1) if x.ndim > 1 else x.reshape(x.shape[0], 1)
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def _squeeze_axes(node: Node, x: Any, axes: Value) -> tuple[int, ...]:
    given = axes_of(node, axes, x.ndim, 13)
    return tuple(i for i, n in enumerate(x.shape) if isinstance(n, int) and n == 1) if given is None else tuple(given)


@folds(lambda node, x, axes=None: np.squeeze(x, _squeeze_axes(node, x, axes)))
def squeeze(node: Node, x: Value, axes: Value = None) -> Tensor:
    x = tensor(x)
    dims = _squeeze_axes(node, x, axes)
    for dim in dims:
        if isinstance(x.shape[dim], int) and x.shape[dim] != 1:
            raise Unsupported(f"squeezes axis {dim} of size {x.shape[dim]}", "the file is malformed; check it with onnx.checker")
    return torch.squeeze(x, dims)


def _unsqueeze_shape(node: Node, x: Any, axes: Value) -> list[Any]:
    count = len(ints(axes, "axes") if axes is not None else node.get("axes"))
    dims = sorted(axes_of(node, axes, x.ndim + count, 13) or [])
    sizes = list(x.shape)
    for dim in dims:
        sizes.insert(dim, 1)
    return sizes


@folds(lambda node, x, axes=None: np.reshape(x, _unsqueeze_shape(node, x, axes)))
def unsqueeze(node: Node, x: Value, axes: Value = None) -> Tensor:
    x = tensor(x)
    count = len(ints(axes, "axes") if axes is not None else node.get("axes"))
    for dim in sorted(axes_of(node, axes, x.ndim + count, 13) or []):
        x = torch.unsqueeze(x, dim)
    return x


@folds(lambda node, x: np.transpose(x, node.get("perm")))
def transpose(node: Node, x: Value) -> Tensor:
    x = tensor(x)
    return x.permute([int(axis) for axis in node.get("perm", range(x.ndim - 1, -1, -1))])


def _concatenate_constants(node: Node, *values: Any) -> Any:
    return np.concatenate([np.asarray(value) for value in values], int(node.get("axis", 0)))


@folds(_concatenate_constants)
def concat(node: Node, *values: Value) -> Tensor:
    tensors = [tensor(value) for value in values]
    return torch.cat(tensors, normal_axis(int(node.get("axis", 1)), tensors[0].ndim))


def _split_sizes(node: Node, x: Any, given: Value, axis: int) -> list[int]:
    if given is not None:
        return ints(given, "split")
    if node.get("split") is not None:
        return [int(item) for item in node.get("split")]
    total, parts = x.shape[axis], int(node.get("num_outputs", len(node.outputs)))
    if parts != len(node.outputs):
        why = f"num_outputs is {parts}, but it has {len(node.outputs)} outputs"
        raise Unsupported(why, "the file is malformed; check it with onnx.checker")
    if not isinstance(total, int):
        raise Unsupported("splits an axis of symbolic size", "give the sizes in `split`")
    if node.opset < 18 and total % parts:
        raise Unsupported(f"splits {total} elements in {parts} equal parts", "give the sizes in `split`")
    each = math.ceil(total / parts)  # the last part is smaller where it does not divide
    return [max(0, min(each, total - i * each)) for i in range(parts)]


def _split_constants(node: Node, x: Any, given: Value = None) -> Any:
    axis = normal_axis(int(node.get("axis", 0)), x.ndim)
    return tuple(np.split(x, np.cumsum(_split_sizes(node, x, given, axis))[:-1], axis))


@folds(_split_constants)
def split(node: Node, x: Value, given: Value = None) -> tuple[Tensor, ...]:
    x = tensor(x)
    axis = normal_axis(int(node.get("axis", 0)), x.ndim)
    return tuple(torch.split(x, _split_sizes(node, x, given, axis), axis))


def _expand_constants(node: Node, x: Any, given: Any) -> Any:
    target = tuple(ints(given, "the shape"))
    if all(isinstance(item, int) for item in target):
        return np.broadcast_to(x, np.broadcast_shapes(np.shape(x), target)).copy()
    return expand_tensor(tensor(x), list(target))


@folds(_expand_constants)
def expand(node: Node, x: Value, given: Value) -> Tensor:
    return expand_tensor(tensor(x), ints(given, "the shape"))


def expand_tensor(x: Tensor, target: list[Any]) -> Tensor:
    """Broadcast both ways: a 1 in `target` keeps the tensor's size."""
    missing = max(len(target), x.ndim) - len(target)
    target = [1] * missing + target
    offset = len(target) - x.ndim
    sizes = [x.shape[i - offset] if i >= offset and isinstance(n, int) and n == 1 else n for i, n in enumerate(target)]
    return x.expand(sizes)


def tile(node: Node, x: Value, repeats: Value) -> Tensor:
    return tensor(x).repeat(ints(repeats, "repeats"))


def depth_to_space(node: Node, x: Value) -> Tensor:
    x, block = tensor(x), int(node.get("blocksize"))
    n, c, h, w = x.shape
    if node.get("mode", "DCR") == "CRD":
        return torch.pixel_shuffle(x, block)
    parts = x.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(n, c // block**2, h * block, w * block)


def space_to_depth(node: Node, x: Value) -> Tensor:
    x, block = tensor(x), int(node.get("blocksize"))
    n, c, h, w = x.shape
    parts = x.reshape(n, c, h // block, block, w // block, block)
    order = (0, 1, 3, 5, 2, 4) if node.get("mode", "DCR") == "CRD" else (0, 3, 5, 1, 2, 4)
    return parts.permute(order).reshape(n, c * block**2, h // block, w // block)


@folds(lambda node, x: x)
def identity(node: Node, x: Value) -> Value:
    return x


def trilu(node: Node, x: Value, k: Value = None) -> Tensor:
    x, diagonal = tensor(x), 0 if k is None else ints(k, "k")[0]
    return torch.triu(x, diagonal) if node.get("upper", 1) else torch.tril(x, diagonal)


def eye_like(node: Node, x: Value) -> Value:
    if x is None or x.ndim != 2:
        raise Unsupported("EyeLike of a tensor that is not a matrix")
    dtype = dtype_of(int(node.get("dtype"))) if node.get("dtype") is not None else tensor(x).dtype
    rows = torch.arange(x.shape[0]).unsqueeze(1) + int(node.get("k", 0))
    return (rows == torch.arange(x.shape[1])).to(dtype)


def reverse_sequence(node: Node, x: Value, lengths: Value) -> Tensor:
    """Reverse the first `lengths[b]` steps of every batch entry b; the rest stays."""
    x, lengths = tensor(x), tensor(lengths)
    batch_axis, time_axis = int(node.get("batch_axis", 1)), int(node.get("time_axis", 0))
    view = x.movedim((batch_axis, time_axis), (0, 1))
    steps = torch.arange(view.shape[1]).unsqueeze(0)
    limits = lengths.unsqueeze(1)
    index = torch.where(steps < limits, limits - 1 - steps, steps)
    index = index.reshape(*index.shape, *[1] * (view.ndim - 2)).expand(view.shape)
    return torch.gather(view, 1, index).movedim((0, 1), (batch_axis, time_axis))


def center_crop_pad(node: Node, x: Value, given: Value) -> Tensor:
    """Crop or pad with zeros around the middle; an odd element goes to the end."""
    x, wanted = tensor(x), ints(given, "the shape")
    axes = [normal_axis(int(axis), x.ndim) for axis in node.get("axes", range(x.ndim))]
    for axis, want in zip(axes, wanted, strict=True):
        have = x.shape[axis]
        if want < have:
            x = torch.narrow(x, axis, (have - want) // 2, want)
        elif want > have:
            before = (want - have) // 2
            pads = [0, 0] * (x.ndim - axis - 1) + [before, want - have - before]
            x = torch.constant_pad_nd(x, pads, 0)
    return x


def compress(node: Node, x: Value, condition: Value) -> Tensor:
    """Keep the entries whose condition holds; the condition decides the output's shape, so it must be a constant."""
    x = tensor(x)
    axis = node.get("axis")
    if axis is None:
        x, dim = x.reshape(-1), 0
    else:
        dim = normal_axis(int(axis), x.ndim)
    kept = np.flatnonzero(constant(condition, "the condition"))
    return torch.index_select(x, dim, torch.tensor(kept, dtype=torch.int64))


OPERATORS = (
    Operator("CenterCropPad", center_crop_pad, 18),
    Operator("Compress", compress, 9),
    Operator("Concat", concat, 4),
    Operator("DepthToSpace", depth_to_space, 1),
    Operator("Expand", expand, 8),
    Operator("EyeLike", eye_like, 9),
    Operator("Flatten", flatten, 1),
    Operator("Identity", identity, 1),
    Operator("Reshape", reshape, 5),
    Operator("ReverseSequence", reverse_sequence, 10),
    Operator("Shape", shape, 1),
    Operator("Size", size, 1),
    Operator("SpaceToDepth", space_to_depth, 1),
    Operator("Split", split, 2),
    Operator("Squeeze", squeeze, 1),
    Operator("Tile", tile, 6),
    Operator("Transpose", transpose, 1),
    Operator("Trilu", trilu, 14),
    Operator("Unsqueeze", unsqueeze, 1),
)
