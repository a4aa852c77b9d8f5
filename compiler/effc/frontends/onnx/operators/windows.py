"""The geometry that convolutions and poolings share: kernel, strides, dilations and pads of one node."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from effc.frontends.onnx.operators.base import Node, Unsupported

__all__ = ["Window", "pad_spatial", "window_of"]


@dataclass(frozen=True)
class Window:
    """A sliding window over the spatial axes; every field has one entry an axis.

    Attributes:
        kernel, strides, dilations: in elements.
        before, after: pads.
        counts: how many positions the window takes; `extra` elements beyond the pads are touched by the last one (ceil_mode).
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    counts: tuple[int, ...]
    extra: tuple[int, ...]

    @property
    def symmetric(self) -> bool:
        """Whether torch's one pad an axis can express it."""
        return self.before == self.after and not any(self.extra)


def window_of(node: Node, sizes: tuple[Any, ...], kernel: tuple[int, ...]) -> Window:
    """Read a node's geometry for the spatial `sizes` and the `kernel`'s extent."""
    dims = len(sizes)
    strides = tuple(int(item) for item in node.get("strides", [1] * dims))
    dilations = tuple(int(item) for item in node.get("dilations", [1] * dims))
    pads = [int(item) for item in node.get("pads", [0] * 2 * dims)]
    auto = node.get("auto_pad", "NOTSET")
    ceil = bool(node.get("ceil_mode", 0))
    before, after, counts, extra = [], [], [], []
    for i, (size, k, stride, dilation) in enumerate(zip(sizes, kernel, strides, dilations, strict=True)):
        if not isinstance(size, int):
            raise Unsupported("a window over an axis of symbolic size", "fix the size with --input-shape")
        extent = dilation * (k - 1) + 1
        low, high = pads[i], pads[i + dims]
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            count = math.ceil(size / stride)
            total = max((count - 1) * stride + extent - size, 0)
            low = total // 2 if auto == "SAME_UPPER" else total - total // 2
            high = total - low
        elif auto == "VALID":
            low = high = 0
            count = math.ceil((size - extent + 1) / stride)
        else:
            span = size + low + high - extent
            count = (math.ceil(span / stride) if ceil else span // stride) + 1
            if ceil and (count - 1) * stride >= size + low:
                count -= 1  # a window that would start in the pads behind the data is dropped
        if count < 1:
            raise Unsupported(f"a window of {extent} over {size} padded elements", "the file is malformed; check it with onnx.checker")
        before.append(low)
        after.append(high)
        counts.append(count)
        extra.append(max(0, (count - 1) * stride + extent - (size + low + high)))
    return Window(kernel, strides, dilations, tuple(before), tuple(after), tuple(counts), tuple(extra))


def pad_spatial(x: Tensor, before: tuple[int, ...], after: tuple[int, ...], value: float) -> Tensor:
    """Pad the last `len(before)` axes of x with a constant."""
    if not any(before) and not any(after):
        return x
    pads = [item for low, high in zip(reversed(before), reversed(after), strict=True) for item in (low, high)]
    return torch.constant_pad_nd(x, pads, value)
