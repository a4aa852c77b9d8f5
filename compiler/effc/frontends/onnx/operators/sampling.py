"""Sampling of images at computed positions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from effc.frontends.onnx.operators.base import Node, Operator, Unsupported, Value
from effc.frontends.onnx.operators.values import ints, tensor

__all__ = ["OPERATORS"]

_MODES = {"bilinear": "bilinear", "linear": "bilinear", "nearest": "nearest", "bicubic": "bicubic", "cubic": "bicubic"}


def grid_sample(node: Node, x: Value, grid: Value) -> Tensor:
    x, grid = tensor(x), tensor(grid)
    mode = _MODES.get(node.get("mode", "bilinear"))
    if mode is None or x.ndim not in (4, 5) or (mode == "bicubic" and x.ndim == 5):
        raise Unsupported(f"mode {node.get('mode')} over {x.ndim - 2} axes", "linear and nearest work over two or three, cubic over two")
    return F.grid_sample(x, grid.to(x.dtype), mode, node.get("padding_mode", "zeros"), bool(node.get("align_corners", 0)))


def affine_grid(node: Node, theta: Value, size: Value) -> Tensor:
    return F.affine_grid(tensor(theta), ints(size, "size"), bool(node.get("align_corners", 0)))


def deform_conv(node: Node, x: Value, weight: Value, offset: Value, bias: Value = None, mask: Value = None) -> Tensor:
    """Convolution whose every tap reads at its own learnt offset: bilinear samples gathered tap by tap, then one matrix product."""
    x, weight, offset = tensor(x), tensor(weight), tensor(offset)
    if x.ndim != 4:
        raise Unsupported(f"a deformable convolution over {x.ndim - 2} axes", "two are covered")
    groups, parts = int(node.get("group", 1)), int(node.get("offset_group", 1))
    kh, kw = weight.shape[2:]
    sh, sw = node.get("strides", [1, 1])
    dh, dw = node.get("dilations", [1, 1])
    top, left = node.get("pads", [0, 0, 0, 0])[:2]
    n, channels, height, width = x.shape
    oh, ow = offset.shape[2:]
    shifts = offset.reshape(n * parts, kh * kw, 2, oh, ow)
    scales = None if mask is None else tensor(mask).reshape(n * parts, kh * kw, oh, ow)
    images = x.reshape(n * parts, channels // parts, height, width)
    rows = (torch.arange(oh) * sh - top).to(x.dtype).reshape(1, oh, 1)
    columns = (torch.arange(ow) * sw - left).to(x.dtype).reshape(1, 1, ow)
    taps = []
    for tap in range(kh * kw):
        y = rows + (tap // kw) * dh + shifts[:, tap, 0]
        z = columns + (tap % kw) * dw + shifts[:, tap, 1]
        found = _bilinear(images, y, z)
        taps.append(found if scales is None else found * scales[:, tap].unsqueeze(1))
    stacked = torch.stack(taps, 2).reshape(n, groups, (channels // groups) * kh * kw, oh * ow)
    kernels = weight.reshape(groups, weight.shape[0] // groups, -1)
    y = torch.matmul(kernels, stacked).reshape(n, weight.shape[0], oh, ow)
    return y if bias is None else y + tensor(bias).reshape(-1, 1, 1)


def _bilinear(images: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Values of (n, c, h, w) images at (n, oh, ow) positions, zero outside."""
    n, channels, height, width = images.shape
    flat = images.reshape(n, channels, height * width)
    low_y, low_x = torch.floor(y), torch.floor(x)
    total = torch.zeros((), dtype=images.dtype)
    for row, row_weight in ((low_y, 1 - (y - low_y)), (low_y + 1, y - low_y)):
        for column, column_weight in ((low_x, 1 - (x - low_x)), (low_x + 1, x - low_x)):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            index = row.clamp(0, height - 1).to(torch.int64) * width + column.clamp(0, width - 1).to(torch.int64)
            values = torch.gather(flat, 2, index.reshape(n, 1, -1).expand(n, channels, -1)).reshape(n, channels, *y.shape[1:])
            weight = torch.where(inside, row_weight * column_weight, torch.zeros((), dtype=images.dtype))
            total = total + values * weight.unsqueeze(1)
    return total


OPERATORS = (
    Operator("AffineGrid", affine_grid, 20),
    Operator("DeformConv", deform_conv, 19),
    Operator("GridSample", grid_sample, 16),
)
