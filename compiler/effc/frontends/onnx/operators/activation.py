"""Activation functions, softmax and dropout at inference."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from effc.frontends.onnx.operators.base import Node, Operator, Unsupported, Value

__all__ = ["OPERATORS"]


def _gelu(node: Node, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=node.get("approximate", "none"))


def _hard_sigmoid(node: Node, x: Tensor) -> Tensor:
    return torch.clamp(node.get("alpha", 0.2) * x + node.get("beta", 0.5), 0, 1)


def _selu(node: Node, x: Tensor) -> Tensor:
    alpha, gamma = node.get("alpha", 1.6732632423543772), node.get("gamma", 1.0507009873554805)
    return torch.where(x > 0, gamma * x, gamma * (alpha * torch.exp(x) - alpha))


def _prelu(node: Node, x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, slope * x, x)


def _softmax(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def apply(node: Node, x: Tensor) -> Tensor:
        if node.opset >= 13:
            return function(x, dim=node.get("axis", -1))
        # Before opset 13 the input is seen as a matrix: all dimensions from `axis` on together.
        axis = node.get("axis", 1) % x.ndim if x.ndim else 0
        if axis == x.ndim - 1:
            return function(x, dim=-1)
        return function(x.flatten(axis), dim=axis).reshape(x.shape)

    return apply


def _hardmax(node: Node, x: Tensor) -> Tensor:
    if node.opset < 13 and node.get("axis", 1) % x.ndim != x.ndim - 1:
        raise Unsupported("Hardmax over several axes together (opset < 13)", "use opset 13")
    axis = node.get("axis", -1 if node.opset >= 13 else 1) % x.ndim
    hot = F.one_hot(x.argmax(dim=axis), x.shape[axis]).to(x.dtype)
    return hot.movedim(-1, axis)


def _dropout(node: Node, x: Tensor, ratio: Value = None, training: Value = None) -> tuple[Tensor, Tensor]:
    if training is not None and bool(training.reshape(-1)[0]):
        raise Unsupported("dropout in training mode draws random numbers", "export the model for inference")
    return x.clone(), torch.ones_like(x, dtype=torch.bool)


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda node, x: function(x)


OPERATORS: tuple[Operator, ...] = (
    Operator("Relu", _unary(torch.relu), since=6),
    Operator("Sigmoid", _unary(torch.sigmoid), since=6),
    Operator("Tanh", _unary(torch.tanh), since=6),
    Operator("Softplus", _unary(lambda x: torch.maximum(x, torch.zeros_like(x)) + torch.log1p(torch.exp(-torch.abs(x))))),
    Operator("Softsign", _unary(F.softsign)),
    Operator("Mish", _unary(F.mish)),
    Operator("HardSwish", _unary(F.hardswish)),
    Operator("LeakyRelu", lambda node, x: torch.where(x < 0, node.get("alpha", 0.01) * x, x), since=6),
    Operator("ThresholdedRelu", lambda node, x: torch.where(x > node.get("alpha", 1.0), x, torch.zeros_like(x))),
    Operator("Elu", lambda node, x: torch.where(x > 0, x, node.get("alpha", 1.0) * (torch.exp(x) - 1)), since=6),
    Operator("Celu", lambda node, x: F.celu(x, node.get("alpha", 1.0))),
    Operator("Selu", _selu, since=6),
    Operator("Swish", lambda node, x: x * torch.sigmoid(node.get("alpha", 1.0) * x)),
    Operator("Shrink", lambda node, x: _shrink(x, node.get("lambd", 0.5), node.get("bias", 0.0))),
    Operator("Gelu", _gelu),
    Operator("HardSigmoid", _hard_sigmoid, since=6),
    Operator("PRelu", _prelu, since=7),
    Operator("Softmax", _softmax(torch.softmax)),
    Operator("LogSoftmax", _softmax(torch.log_softmax)),
    Operator("Hardmax", _hardmax),
    Operator("Dropout", _dropout, since=7, known=(1, 2)),
)


def _shrink(x: Tensor, lambd: float, bias: float) -> Tensor:
    if math.isnan(lambd):
        raise Unsupported("lambd is NaN")
    return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, torch.zeros_like(x))).to(x.dtype)
