"""Convolutions and matrix products."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from effc.frontends.onnx.operators.base import Node, Operator, Unsupported
from effc.frontends.onnx.operators.helpers import windows

__all__ = ["OPERATORS"]

_CONV: dict[int, Any] = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}
_TRANSPOSE: dict[int, Any] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def _spatial(x: Tensor) -> int:
    if x.ndim - 2 not in _CONV:
        raise Unsupported(f"{x.ndim - 2} spatial dimensions", "1, 2 and 3 work")
    return x.ndim - 2


def _conv(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    rank = _spatial(x)
    strides, dilations, pads = windows(node, x, weight.shape[2:])
    begin, end = pads[:rank], pads[rank:]
    if begin != end or min(pads, default=0) < 0:
        x = F.pad(x, [size for pair in zip(reversed(begin), reversed(end), strict=True) for size in pair])
        begin = [0] * rank
    return _CONV[rank](x, weight, bias, strides, begin, dilations, node.get("group", 1))  # type: ignore[no-any-return]


def _conv_transpose(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    rank = _spatial(x)
    kernel = list(weight.shape[2:])
    strides, dilations = list(node.get("strides") or [1] * rank), list(node.get("dilations") or [1] * rank)
    extra = list(node.get("output_padding") or [0] * rank)
    full = [(int(n) - 1) * s + (k - 1) * d + 1 for n, s, k, d in zip(x.shape[2:], strides, kernel, dilations, strict=True)]
    mode, shape = node.get("auto_pad", "NOTSET"), node.get("output_shape")
    if shape:
        total = [f + e - int(want) for f, e, want in zip(full, extra, shape[-rank:], strict=True)]
    elif mode in ("SAME_UPPER", "SAME_LOWER"):
        total = [f + e - int(n) * s for f, e, n, s in zip(full, extra, x.shape[2:], strides, strict=True)]
    else:
        pads = list(node.get("pads") or [0] * (2 * rank))
        total = []
    if total:
        small = [t // 2 if mode == "SAME_UPPER" else t - t // 2 for t in total]
        pads = small + [t - s for t, s in zip(total, small, strict=True)]
    result = _TRANSPOSE[rank](x, weight, bias, strides, 0, 0, node.get("group", 1), dilations)
    begin, end = pads[:rank], pads[rank:]
    if max(extra) and bias is not None:
        raise Unsupported("output_padding together with a bias", "add the bias in an Add node")
    cut = [size for b, e, p in reversed(list(zip(begin, end, extra, strict=True))) for size in (-b, p - e)]
    return F.pad(result, cut) if any(cut) else result


def _gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    a = a.transpose(0, 1) if node.get("transA", 0) else a
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    if c is not None and c.ndim == 1 and alpha == beta == 1 and a.is_floating_point() and b.ndim == 2:
        weight = b if node.get("transB", 0) else b.transpose(0, 1)
        if c.shape[0] == weight.shape[0]:
            return F.linear(a, weight, c)
    product = a @ (b.transpose(0, 1) if node.get("transB", 0) else b)
    product = product * alpha if alpha != 1 else product
    return product if c is None else product + (c * beta if beta != 1 else c)


OPERATORS: tuple[Operator, ...] = (
    Operator("Conv", _conv),
    Operator("ConvTranspose", _conv_transpose),
    Operator("Gemm", _gemm, since=7),
    Operator("MatMul", lambda node, a, b: torch.matmul(a, b)),
    Operator("Einsum", lambda node, *operands: torch.einsum(node.attributes["equation"].replace(" ", ""), *operands)),
)
