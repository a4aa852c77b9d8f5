"""Normalisation at inference."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from effc.frontends.onnx.operators.base import Node, Operator, Unsupported

__all__ = ["OPERATORS"]


def _batch_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    if node.get("training_mode", 0) or sum(bool(name) for name in node.outputs) > 1:
        raise Unsupported("batch normalisation in training mode", "export the model for inference")
    return F.batch_norm(x, mean, variance, scale, bias, False, 0.0, node.get("epsilon", 1e-5))


def _layer_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor | tuple[Tensor, ...]:
    axis = node.get("axis", -1) % x.ndim
    epsilon = node.get("epsilon", 1e-5)
    shape = list(x.shape[axis:])
    if len([name for name in node.outputs if name]) > 1 or list(scale.shape) != shape:
        over = list(range(axis, x.ndim))
        mean = x.mean(over, keepdim=True)
        inverse = torch.rsqrt(((x - mean) ** 2).mean(over, keepdim=True) + epsilon)
        y = (x - mean) * inverse * scale
        return (y if bias is None else y + bias), mean, inverse
    return F.layer_norm(x, shape, scale, bias, epsilon)


def _rms_norm(node: Node, x: Tensor, scale: Tensor) -> Tensor:
    over = list(range(node.get("axis", -1) % x.ndim, x.ndim))
    return x * torch.rsqrt((x * x).mean(over, keepdim=True) + node.get("epsilon", 1e-5)) * scale


def _instance_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    over = list(range(2, x.ndim))
    mean = x.mean(over, keepdim=True)
    normal = (x - mean) * torch.rsqrt(((x - mean) ** 2).mean(over, keepdim=True) + node.get("epsilon", 1e-5))
    shape = [1, -1, *[1] * len(over)]
    return normal * scale.reshape(shape) + bias.reshape(shape)


def _group_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    groups = node.attributes["num_groups"]
    if node.opset < 21:  # scale and bias per group
        repeats = x.shape[1] // groups
        scale, bias = scale.repeat_interleave(repeats), bias.repeat_interleave(repeats)
    return F.group_norm(x, groups, scale, bias, node.get("epsilon", 1e-5))


def _lrn(node: Node, x: Tensor) -> Tensor:
    size = node.attributes["size"]
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
    squares = F.pad((x * x).movedim(1, -1), [before, after])
    total = sum(squares.narrow(-1, tap, x.shape[1]) for tap in range(size))
    scale = node.get("bias", 1.0) + node.get("alpha", 1e-4) / size * total
    return x / (scale.movedim(-1, 1) ** node.get("beta", 0.75))  # type: ignore[union-attr]


def _mvn(node: Node, x: Tensor) -> Tensor:
    axes = list(node.get("axes", [0, 2, 3]))
    mean = x.mean(axes, keepdim=True)
    deviation = torch.sqrt((x * x).mean(axes, keepdim=True) - mean * mean)
    return (x - mean) / (deviation + 1e-9)


def _lp_norm(node: Node, x: Tensor) -> Tensor:
    power, axis = node.get("p", 2), node.get("axis", -1)
    size = torch.abs(x).sum(axis, keepdim=True) if power == 1 else torch.sqrt((x * x).sum(axis, keepdim=True))
    return torch.where(size == 0, torch.zeros_like(x), x / size)


OPERATORS: tuple[Operator, ...] = (
    Operator("BatchNormalization", _batch_norm, since=7, buffers=(3, 4)),
    Operator("LayerNormalization", _layer_norm),
    Operator("RMSNormalization", _rms_norm),
    Operator("InstanceNormalization", _instance_norm, since=6),
    Operator("GroupNormalization", _group_norm),
    Operator("LRN", _lrn),
    Operator("MeanVarianceNormalization", _mvn),
    Operator("LpNormalization", _lp_norm),
)
