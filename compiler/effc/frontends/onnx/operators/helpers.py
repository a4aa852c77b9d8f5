"""What several operator files share: axes that moved from attributes to inputs, dtypes, broadcasting rules of old opsets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from effc.frontends.onnx.operators.base import Node, Unsupported, integers

__all__ = ["axes_of", "torch_dtype", "windows"]

_DTYPES = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
    16: torch.bfloat16,
}


def torch_dtype(code: int) -> torch.dtype:
    """The torch dtype of an ONNX element type. Raises Unsupported for strings, complex, unsigned 16 to 64 bits, and 4 and 8-bit floats."""
    if code not in _DTYPES:
        raise Unsupported(f"element type {code} has no counterpart", "use a float, a signed integer, uint8 or bool")
    return _DTYPES[code]


def axes_of(node: Node, given: np.ndarray[Any, Any] | None, rank: int) -> list[int]:
    """Axes from the input (newer opsets) or the attribute, made non-negative; empty where neither is there."""
    axes = integers(given) if given is not None else node.get("axes")
    return [int(axis) % rank if rank else 0 for axis in axes] if axes is not None else []


def windows(node: Node, x: Tensor, kernel: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Strides, dilations and pads `[begin..., end...]` of a convolution or pool, `auto_pad` resolved."""
    rank = len(kernel)
    strides = list(node.get("strides") or [1] * rank)
    dilations = list(node.get("dilations") or [1] * rank)
    mode = node.get("auto_pad", "NOTSET")
    if mode == "NOTSET":
        return strides, dilations, list(node.get("pads") or [0] * (2 * rank))
    if mode == "VALID":
        return strides, dilations, [0] * (2 * rank)
    begin, end = [], []
    for size, stride, dilation, extent in zip(x.shape[2:], strides, dilations, kernel, strict=True):
        total = max(0, (-(-int(size) // stride) - 1) * stride + (extent - 1) * dilation + 1 - int(size))
        small, large = total // 2, total - total // 2
        begin.append(small if mode == "SAME_UPPER" else large)
        end.append(large if mode == "SAME_UPPER" else small)
    return strides, dilations, begin + end
