"""Activation functions and softmax."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from effc.frontends.onnx.operators.base import Node, Operator, Unsupported, Value
from effc.frontends.onnx.operators.values import is_constant, normal_axis, number, tensor

__all__ = ["OPERATORS"]


def relu(node: Node, x: Value) -> Tensor:
    return torch.relu(tensor(x))


def leaky_relu(node: Node, x: Value) -> Tensor:
    return F.leaky_relu(tensor(x), float(node.get("alpha", 0.01)))


def prelu(node: Node, x: Value, slope: Value) -> Tensor:
    x, slope = tensor(x), tensor(slope)
    return torch.where(x < 0, slope * x, x)


def elu(node: Node, x: Value) -> Tensor:
    return F.elu(tensor(x), float(node.get("alpha", 1.0)))


def selu(node: Node, x: Value) -> Tensor:
    alpha = float(node.get("alpha", 1.67326319217681884765625))
    gamma = float(node.get("gamma", 1.05070102214813232421875))
    return gamma * F.elu(tensor(x), alpha)


def celu(node: Node, x: Value) -> Tensor:
    return F.celu(tensor(x), float(node.get("alpha", 1.0)))


def gelu(node: Node, x: Value) -> Tensor:
    return F.gelu(tensor(x), approximate=node.get("approximate", "none"))


def sigmoid(node: Node, x: Value) -> Tensor:
    return torch.sigmoid(tensor(x))


def hard_sigmoid(node: Node, x: Value) -> Tensor:
    alpha, beta = float(node.get("alpha", 0.2)), float(node.get("beta", 0.5))
    if math.isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5:
        return F.hardsigmoid(tensor(x))
    return torch.clamp(tensor(x) * alpha + beta, 0.0, 1.0)


def hard_swish(node: Node, x: Value) -> Tensor:
    return F.hardswish(tensor(x))


def mish(node: Node, x: Value) -> Tensor:
    return F.mish(tensor(x))


def swish(node: Node, x: Value) -> Tensor:
    x, alpha = tensor(x), float(node.get("alpha", 1.0))
    return F.silu(x) if alpha == 1.0 else x * torch.sigmoid(alpha * x)


def swiglu(node: Node, gate: Value, linear: Value) -> Tensor:
    return swish(node, gate) * tensor(linear)


def softplus(node: Node, x: Value) -> Tensor:
    x = tensor(x)
    return torch.relu(x) + torch.log1p(torch.exp(-torch.abs(x)))  # F.softplus turns linear above a threshold


def softsign(node: Node, x: Value) -> Tensor:
    return F.softsign(tensor(x))


def tanh(node: Node, x: Value) -> Tensor:
    return torch.tanh(tensor(x))


def thresholded_relu(node: Node, x: Value) -> Tensor:
    x = tensor(x)
    return torch.where(x > float(node.get("alpha", 1.0)), x, torch.zeros_like(x))


def shrink(node: Node, x: Value) -> Tensor:
    x = tensor(x)
    bias, lambd = node.get("bias", 0.0), node.get("lambd", 0.5)
    if not x.is_floating_point():
        if bias != int(bias):
            raise Unsupported(f"bias {bias} on integers")
        bias = int(bias)
    return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, torch.zeros_like(x)))


def clip(node: Node, x: Value, low: Value = None, high: Value = None) -> Tensor:
    x = tensor(x)
    if node.opset < 11:
        return _clamp(x, node.get("min"), node.get("max"))
    if (low is None or is_constant(low)) and (high is None or is_constant(high)):
        return _clamp(x, None if low is None else number(low, "min"), None if high is None else number(high, "max"))
    x = x if low is None else torch.maximum(x, tensor(low))
    return x if high is None else torch.minimum(x, tensor(high))


def _clamp(x: Tensor, low: Any, high: Any) -> Tensor:
    if low is None and high is None:
        return x.clone()
    if low == 0 and high is None:
        return torch.relu(x)
    if low == 0 and high == 6 and x.is_floating_point():
        return F.relu6(x)
    if not x.is_floating_point():  # both bounds: an absent one is infinite, which no integer is
        limits = torch.iinfo(x.dtype)
        low, high = limits.min if low is None else low, limits.max if high is None else high
    return torch.clamp(x, low, high)


def softmax(node: Node, x: Value) -> Tensor:
    return _over_axis(node, tensor(x), torch.softmax)


def log_softmax(node: Node, x: Value) -> Tensor:
    return _over_axis(node, tensor(x), torch.log_softmax)


def hardmax(node: Node, x: Value) -> Tensor:
    return _over_axis(node, tensor(x), _hardmax)


def _hardmax(x: Tensor, dim: int) -> Tensor:
    first = torch.argmax(x, dim, keepdim=True)
    shape = [1] * x.ndim
    shape[dim] = -1
    return (torch.arange(x.shape[dim], device=x.device).reshape(shape) == first).to(x.dtype)


def _over_axis(node: Node, x: Tensor, function: Any) -> Tensor:
    """Along one axis since opset 13; over all axes from `axis` on, flattened together, before."""
    axis = normal_axis(int(node.get("axis", -1 if node.opset >= 13 else 1)), x.ndim)
    if node.opset >= 13 or axis == x.ndim - 1:
        return function(x, axis)  # type: ignore[no-any-return]
    return function(x.flatten(axis), axis).reshape(x.shape)  # type: ignore[no-any-return]


OPERATORS = (
    Operator("Celu", celu, 12),
    Operator("Clip", clip, 6, constants=(1, 2)),
    Operator("Elu", elu, 6),
    Operator("Gelu", gelu, 20),
    Operator("HardSigmoid", hard_sigmoid, 6),
    Operator("HardSwish", hard_swish, 14),
    Operator("Hardmax", hardmax, 1),
    Operator("LeakyRelu", leaky_relu, 6),
    Operator("LogSoftmax", log_softmax, 1),
    Operator("Mish", mish, 18),
    Operator("PRelu", prelu, 7),
    Operator("Relu", relu, 6),
    Operator("Selu", selu, 6),
    Operator("Shrink", shrink, 9),
    Operator("Sigmoid", sigmoid, 6),
    Operator("Softmax", softmax, 1),
    Operator("Softplus", softplus, 1),
    Operator("Softsign", softsign, 1),
    Operator("SwiGLU", swiglu, 28),
    Operator("Swish", swish, 24),
    Operator("Tanh", tanh, 6),
    Operator("ThresholdedRelu", thresholded_relu, 10),
)
