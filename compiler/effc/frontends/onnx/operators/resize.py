"""`Resize` and `Upsample`: separable interpolation, one axis after the other.

Where every output element comes from is known while tracing, so an axis becomes a few gathers with constant indices and weights:
one for nearest, two for linear, four for cubic, more where antialiasing widens the kernel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from effc.frontends.onnx.operators.base import Node, Operator, Unsupported, Value
from effc.frontends.onnx.operators.values import check_table, constant, ints, normal_axis, tensor

__all__ = ["OPERATORS"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class _Rule:
    """How one node maps output positions to input elements; the fields are the node's attributes."""

    mode: str
    coordinates: str
    nearest: str
    cubic_a: float
    exclude_outside: bool
    antialias: bool
    extrapolation: float


def resize(node: Node, x: Value, *inputs: Value) -> Tensor:
    x = tensor(x)
    rule = _Rule(
        mode=node.get("mode", "nearest"),
        coordinates=node.get("coordinate_transformation_mode", "half_pixel" if node.opset >= 11 else "asymmetric"),
        nearest=node.get("nearest_mode", "round_prefer_floor" if node.opset >= 11 else "floor"),
        cubic_a=float(node.get("cubic_coeff_a", -0.75)),
        exclude_outside=bool(node.get("exclude_outside", 0)),
        antialias=bool(node.get("antialias", 0)),
        extrapolation=float(node.get("extrapolation_value", 0.0)),
    )
    given = [*inputs, None, None, None]
    roi, scales, sizes = (None, given[0], None) if node.opset < 11 else given[:3]
    return _resize(node, x, rule, roi, scales, sizes)


def upsample(node: Node, x: Value, scales: Value = None) -> Tensor:
    mode = node.get("mode", "nearest")
    rule = _Rule("linear" if mode in ("linear", "bilinear") else mode, "asymmetric", "floor", -0.75, False, False, 0.0)
    factors = scales if scales is not None else np.asarray(node.get("scales"), dtype=np.float32)
    return _resize(node, tensor(x), rule, None, factors, None)


def _resize(node: Node, x: Tensor, rule: _Rule, roi: Value, scales: Value, sizes: Value) -> Tensor:
    axes = [normal_axis(int(axis), x.ndim) for axis in node.get("axes", range(x.ndim))]
    by_scale = scales is not None and constant(scales, "scales").size > 0
    if by_scale:
        factors = [float(item) for item in constant(scales, "scales").reshape(-1)]
        targets: list[Any] = [
            x.shape[axis] if factor == 1.0 else math.floor(factor * _size(x, axis)) for axis, factor in zip(axes, factors, strict=True)
        ]
    else:
        targets = ints(sizes, "sizes")
        factors, targets = _factors(x, axes, targets, node.get("keep_aspect_ratio_policy", "stretch"))
    regions: list[Any] = [None] * len(axes)
    if rule.coordinates == "tf_crop_and_resize":
        corners = [float(item) for item in constant(roi, "roi").reshape(-1)]
        regions = [(corners[i], corners[i + len(axes)]) for i in range(len(axes))]
    dtype = x.dtype
    if not x.is_floating_point() and rule.mode != "nearest":
        x = x.to(torch.float32)
    for axis, factor, target, region in zip(axes, factors, targets, regions, strict=True):
        whole = region is None or (region[0] == 0.0 and region[1] == 1.0)
        if factor == 1.0 and whole and (target is x.shape[axis] or target == x.shape[axis]):
            continue
        x = _along_axis(x, axis, factor, int(target), rule, region)
    return x if x.dtype == dtype else _saturated(x, dtype)


def _saturated(x: Tensor, dtype: torch.dtype) -> Tensor:
    limits = torch.iinfo(dtype)
    return torch.clamp(torch.round(x), limits.min, limits.max).to(dtype)


def _size(x: Tensor, axis: int) -> int:
    size = x.shape[axis]
    if not isinstance(size, int):
        raise Unsupported("resizes an axis of symbolic size", "fix the size with --input-shape")
    return size


def _factors(x: Tensor, axes: list[int], targets: list[Any], policy: str) -> tuple[list[float], list[Any]]:
    if policy == "stretch":
        unchanged = [not isinstance(x.shape[axis], int) or not isinstance(target, int) for axis, target in zip(axes, targets, strict=True)]
        factors = [1.0 if same else target / _size(x, axis) for axis, target, same in zip(axes, targets, unchanged, strict=True)]
        return factors, [x.shape[axis] if same else target for axis, target, same in zip(axes, targets, unchanged, strict=True)]
    ratios = [target / _size(x, axis) for axis, target in zip(axes, targets, strict=True)]
    scale = min(ratios) if policy == "not_larger" else max(ratios)
    return [scale] * len(axes), [int(scale * _size(x, axis) + 0.5) for axis in axes]


def _along_axis(x: Tensor, axis: int, factor: float, target: int, rule: _Rule, region: Any) -> Tensor:
    size = _size(x, axis)
    position, outside = _source(size, factor, target, rule, region)
    index, weight = _taps(position, size, factor, rule)
    view = [1] * x.ndim
    view[axis] = target
    result: Tensor | None = None
    for tap in range(index.shape[1]):
        part = torch.index_select(x, axis, torch.tensor(index[:, tap], dtype=torch.int64))
        if rule.mode != "nearest":
            part = part * torch.tensor(weight[:, tap]).to(x.dtype).reshape(view)
        result = part if result is None else result + part
    if result is None:
        raise Unsupported("an interpolation without elements")
    if outside is not None and outside.any():
        filling = torch.full((), rule.extrapolation, dtype=x.dtype)
        result = torch.where(torch.tensor(outside).reshape(view), filling, result)
    return result


def _source(size: int, factor: float, target: int, rule: _Rule, region: Any) -> tuple[Array, Array | None]:
    """The input coordinate of every output position, and which of them lie outside of a cropped image."""
    check_table(target, f"an axis of {target} elements")
    y, width = np.arange(target, dtype=np.float64), factor * size
    match rule.coordinates:
        case "align_corners":
            return (np.zeros(target) if width == 1 else y * (size - 1) / (width - 1)), None
        case "asymmetric":
            return y / factor, None
        case "half_pixel":
            return (y + 0.5) / factor - 0.5, None
        case "pytorch_half_pixel":
            return (np.full(target, -0.5) if width == 1 else (y + 0.5) / factor - 0.5), None
        case "half_pixel_symmetric":
            return size / 2 * (1 - target / width) + (y + 0.5) / factor - 0.5, None
        case "tf_crop_and_resize":
            low, high = region
            if width == 1:
                position = np.full(target, (high - low) * (size - 1) / 2)
            else:
                position = y * (high - low) * (size - 1) / (width - 1)
            position = position + low * (size - 1)
            return position, (position < 0) | (position > size - 1)
    raise Unsupported(f"coordinate_transformation_mode {rule.coordinates}", "use half_pixel")


def _taps(position: Array, size: int, factor: float, rule: _Rule) -> tuple[Array, Array]:
    """Indices and weights of the input elements of every output position, (positions, taps)."""
    floor = np.floor(position)
    ratio = np.where(position == floor, 1.0, position - floor)  # in (0, 1]: a whole coordinate counts as right of its left neighbour
    left = np.where(position == floor, floor - 1, floor).astype(np.int64)
    if rule.mode == "nearest":
        right = {"round_prefer_floor": ratio > 0.5, "round_prefer_ceil": ratio >= 0.5, "floor": ratio == 1.0, "ceil": ratio > 0}
        if rule.nearest not in right:
            raise Unsupported(f"nearest_mode {rule.nearest}", "use round_prefer_floor")
        index = (left + right[rule.nearest])[:, None]
        return np.clip(index, 0, size - 1), np.ones_like(index, dtype=np.float64)
    if rule.mode not in ("linear", "cubic"):
        raise Unsupported(f"mode {rule.mode}", "use nearest, linear or cubic")
    shrink = min(factor, 1.0) if rule.antialias else 1.0
    radius = 1 if rule.mode == "linear" else 2
    first = int(np.floor(-radius / shrink) + 1)
    check_table(len(position) * max(2 - first, 1), f"shrinking to {factor:g} of the size")
    offsets = np.arange(first, 2 - first)
    distance = np.abs(shrink * (offsets[None, :] - ratio[:, None]))
    weight = np.clip(1 - distance, 0, 1) if rule.mode == "linear" else _cubic(distance, rule.cubic_a)
    index = left[:, None] + offsets[None, :]
    if rule.exclude_outside:
        weight = np.where((index < 0) | (index >= size), 0.0, weight)
    if rule.exclude_outside or rule.antialias:
        total = weight.sum(axis=1, keepdims=True)
        weight = weight / np.where(total == 0, 1.0, total)
    used = np.flatnonzero(np.any(weight != 0, axis=0))
    return np.clip(index[:, used], 0, size - 1), weight[:, used]


def _cubic(distance: Array, a: float) -> Array:
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


OPERATORS = (
    Operator("Resize", resize, 10, constants=(1, 2, 3)),
    Operator("Upsample", upsample, 7, constants=(1,)),
)
