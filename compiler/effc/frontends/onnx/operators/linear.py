"""Matrix products and what is made of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from effc.frontends.onnx.operators.base import Node, Operator, Unsupported, Value
from effc.frontends.onnx.operators.values import tensor

__all__ = ["OPERATORS"]


def gemm(node: Node, a: Value, b: Value, c: Value = None) -> Tensor:
    """alpha * A' B' + beta * C. The usual dense layer becomes `linear`."""
    a, b = tensor(a), tensor(b)
    alpha, beta = float(node.get("alpha", 1.0)), float(node.get("beta", 1.0))
    a = a.t() if node.get("transA", 0) else a
    transposed = bool(node.get("transB", 0))
    bias = None if c is None else tensor(c)
    whole = a.is_floating_point()
    if whole and alpha == 1.0 and (bias is None or (beta == 1.0 and bias.ndim == 1 and bias.shape[0] == b.shape[0 if transposed else 1])):
        return F.linear(a, b if transposed else b.t(), bias)
    product = torch.mm(a, b.t() if transposed else b)
    if alpha != 1.0:
        product = (product * alpha).to(product.dtype)
    if bias is None:
        return product
    return product + (bias if beta == 1.0 else (bias * beta).to(bias.dtype))


def matmul(node: Node, a: Value, b: Value) -> Tensor:
    return torch.matmul(tensor(a), tensor(b))


def einsum(node: Node, *values: Value) -> Tensor:
    result: Tensor = torch.einsum(node.get("equation"), *(tensor(value) for value in values))
    return result


def det(node: Node, x: Value) -> Tensor:
    """Determinants of a batch of square matrices."""
    result: Tensor = torch.linalg.det(tensor(x))
    return result


def fused_matmul(node: Node, a: Value, b: Value) -> Tensor:
    """com.microsoft FusedMatMul: alpha * A' B'."""
    a, b = tensor(a), tensor(b)
    if node.get("transBatchA", 0) or node.get("transBatchB", 0):
        raise Unsupported("transBatchA or transBatchB", "write the transposition as a Transpose")
    a = a.transpose(-1, -2) if node.get("transA", 0) and a.ndim > 1 else a
    b = b.transpose(-1, -2) if node.get("transB", 0) and b.ndim > 1 else b
    alpha = float(node.get("alpha", 1.0))
    product = torch.matmul(a, b)
    return product if alpha == 1.0 else product * alpha


OPERATORS = (
    Operator("Det", det, 11),
    Operator("Einsum", einsum, 12),
    Operator("FusedMatMul", fused_matmul, 1, domain="com.microsoft"),
    Operator("Gemm", gemm, 7),
    Operator("MatMul", matmul, 1),
)
