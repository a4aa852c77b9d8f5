"""Convolutions in one to three dimensions."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from effc.frontends.onnx.operators.base import Node, Operator, Unsupported, Value
from effc.frontends.onnx.operators.values import ints, tensor
from effc.frontends.onnx.operators.windows import pad_spatial, window_of

__all__ = ["OPERATORS"]

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def conv(node: Node, x: Value, weight: Value, bias: Value = None) -> Tensor:
    x, weight = tensor(x), tensor(weight)
    dims = x.ndim - 2
    if dims not in _CONV:
        raise Unsupported(f"a convolution over {dims} axes", "one to three are covered")
    window = window_of(node, tuple(x.shape[2:]), tuple(weight.shape[2:]))
    padding: Any = window.before
    if window.before != window.after:
        x, padding = pad_spatial(x, window.before, window.after, 0.0), 0
    b = None if bias is None else tensor(bias)
    return _CONV[dims](x, weight, b, window.strides, padding, window.dilations, int(node.get("group", 1)))


def conv_transpose(node: Node, x: Value, weight: Value, bias: Value = None) -> Tensor:
    x, weight = tensor(x), tensor(weight)
    dims = x.ndim - 2
    if dims not in _TRANSPOSED:
        raise Unsupported(f"a transposed convolution over {dims} axes", "one to three are covered")
    kernel = tuple(weight.shape[2:])
    strides = [int(item) for item in node.get("strides", [1] * dims)]
    dilations = [int(item) for item in node.get("dilations", [1] * dims)]
    more = [int(item) for item in node.get("output_padding", [0] * dims)]
    pads = [int(item) for item in node.get("pads", [0] * 2 * dims)]
    auto, wanted = node.get("auto_pad", "NOTSET"), node.get("output_shape")
    before, after = pads[:dims], pads[dims:]
    full = [strides[i] * (x.shape[2 + i] - 1) + dilations[i] * (kernel[i] - 1) + 1 for i in range(dims)]
    if wanted is not None or auto in ("SAME_UPPER", "SAME_LOWER"):
        sizes = [int(n) for n in wanted[-dims:]] if wanted is not None else [x.shape[2 + i] * strides[i] for i in range(dims)]
        total = [full[i] + more[i] - sizes[i] for i in range(dims)]
        small, large = [t // 2 for t in total], [t - t // 2 for t in total]
        before, after = (small, large) if auto == "SAME_UPPER" else (large, small)
    elif auto == "VALID":
        before = after = [0] * dims
    b = None if bias is None else tensor(bias)
    group = int(node.get("group", 1))
    if before == after and min(before) >= 0 and all(m < max(s, d) for m, s, d in zip(more, strides, dilations, strict=True)):
        return _TRANSPOSED[dims](x, weight, b, strides, before, more, group, dilations)
    y = _TRANSPOSED[dims](x, weight, None, strides, 0, 0, group, dilations)
    # negative pads cut; what lies beyond the full result is zero, as output_padding says
    crop = [item for i in reversed(range(dims)) for item in (-before[i], more[i] - after[i])]
    y = torch.constant_pad_nd(y, crop, 0.0)
    return y if b is None else y + b.reshape(-1, *[1] * dims)


def col2im(node: Node, x: Value, image: Value, block: Value) -> Tensor:
    """Sum blocks back into the image they were cut from."""
    x = tensor(x)
    size, kernel = ints(image, "image_shape"), ints(block, "block_shape")
    dims = len(size)
    if dims != 2:
        raise Unsupported(f"Col2Im over {dims} axes", "two are covered")
    pads = [int(item) for item in node.get("pads", [0] * 2 * dims)]
    strides = [int(item) for item in node.get("strides", [1] * dims)]
    dilations = [int(item) for item in node.get("dilations", [1] * dims)]
    padded = [size[i] + pads[i] + pads[i + dims] for i in range(dims)]
    y = F.fold(x, tuple(padded), tuple(kernel), tuple(dilations), 0, tuple(strides))
    return y[:, :, pads[0] : pads[0] + size[0], pads[1] : pads[1] + size[1]]


OPERATORS = (
    Operator("Col2Im", col2im, 18),
    Operator("Conv", conv, 1),
    Operator("ConvTranspose", conv_transpose, 1),
)
