"""Normalisation over batches, layers, groups and instances, as inference computes it."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from effc.frontends.onnx.operators.base import Node, Operator, Unsupported, Value
from effc.frontends.onnx.operators.values import check_steps, dtype_of, is_constant, normal_axis, number, tensor

__all__ = ["OPERATORS"]


def _wants(node: Node, index: int) -> bool:
    return len(node.outputs) > index and bool(node.outputs[index])


def batch_normalization(node: Node, x: Value, scale: Value, bias: Value, mean: Value, variance: Value) -> Tensor:
    if node.get("training_mode", 0) or any(_wants(node, i) for i in range(1, 5)):
        raise Unsupported("training mode", "export the model for inference")
    if node.opset < 9 and not node.get("spatial", 1):
        raise Unsupported("spatial=0", "convert the model to opset 9 or later")
    x, scale, bias, mean, variance = tensor(x), tensor(scale), tensor(bias), tensor(mean), tensor(variance)
    epsilon = float(node.get("epsilon", 1e-5))
    if len({x.dtype, scale.dtype, mean.dtype}) == 1:
        return F.batch_norm(x, mean, variance, scale, bias, False, 0.0, epsilon)
    view = (-1, *[1] * (x.ndim - 2))
    factor = scale.float() * torch.rsqrt(variance.float() + epsilon)
    y = x.float() * factor.reshape(view) + (bias.float() - mean.float() * factor).reshape(view)
    return y.to(x.dtype)


def instance_normalization(node: Node, x: Value, scale: Value, bias: Value) -> Tensor:
    return F.instance_norm(tensor(x), None, None, tensor(scale), tensor(bias), True, 0.0, float(node.get("epsilon", 1e-5)))


def layer_normalization(node: Node, x: Value, scale: Value, bias: Value = None) -> Any:
    x, scale = tensor(x), tensor(scale)
    b = None if bias is None else tensor(bias)
    axis = normal_axis(int(node.get("axis", -1)), x.ndim)
    epsilon = float(node.get("epsilon", 1e-5))
    shape = list(x.shape[axis:])
    whole = list(scale.shape) == shape and (b is None or list(b.shape) == shape)
    if whole and not _wants(node, 1) and not _wants(node, 2) and all(isinstance(n, int) for n in shape):
        return F.layer_norm(x, shape, scale, b, epsilon)
    dims = list(range(axis, x.ndim))
    stash = dtype_of(int(node.get("stash_type", 1)))
    wide = x.to(stash)
    mean = torch.mean(wide, dims, keepdim=True)
    centred = wide - mean
    inverse = torch.reciprocal(torch.sqrt(torch.mean(centred * centred, dims, keepdim=True) + epsilon))
    y = (centred * inverse).to(x.dtype) * scale
    y = y if b is None else y + b
    if len(node.outputs) == 1:
        return y
    return (y, mean, inverse)[: len(node.outputs)]


def rms_normalization(node: Node, x: Value, scale: Value) -> Tensor:
    x, scale = tensor(x), tensor(scale)
    axis = normal_axis(int(node.get("axis", -1)), x.ndim)
    epsilon = float(node.get("epsilon", 1e-5))
    wide = x.to(dtype_of(int(node.get("stash_type", 1))))
    square = torch.mean(wide * wide, list(range(axis, x.ndim)), keepdim=True)
    return (wide * torch.rsqrt(square + epsilon)).to(scale.dtype) * scale


def group_normalization(node: Node, x: Value, scale: Value, bias: Value) -> Tensor:
    """Scale and bias are one a group before opset 21, one a channel since."""
    x, scale, bias = tensor(x), tensor(scale), tensor(bias)
    groups, channels = int(node.get("num_groups")), x.shape[1]
    if node.opset < 21:
        scale = scale.repeat_interleave(channels // groups)
        bias = bias.repeat_interleave(channels // groups)
    return F.group_norm(x, groups, scale, bias, float(node.get("epsilon", 1e-5)))


def mean_variance_normalization(node: Node, x: Value) -> Tensor:
    x = tensor(x)
    dims = [normal_axis(int(axis), x.ndim) for axis in node.get("axes", [0, 2, 3])]
    mean = torch.mean(x, dims, keepdim=True)
    variance = torch.mean(x * x, dims, keepdim=True) - mean * mean
    return (x - mean) / (torch.sqrt(variance) + 1e-9)


def lp_normalization(node: Node, x: Value) -> Tensor:
    """Divided by the norm; where the norm is 0 the result is 0."""
    x, p = tensor(x), int(node.get("p", 2))
    axis = normal_axis(int(node.get("axis", -1)), x.ndim)
    norm = torch.sum(torch.abs(x), axis, keepdim=True) if p == 1 else torch.sqrt(torch.sum(x * x, axis, keepdim=True))
    return torch.where(norm == 0, torch.zeros_like(x), x / torch.where(norm == 0, torch.ones_like(norm), norm))


def lrn(node: Node, x: Value) -> Tensor:
    x, size = tensor(x), int(node.get("size"))
    alpha, beta, k = float(node.get("alpha", 1e-4)), float(node.get("beta", 0.75)), float(node.get("bias", 1.0))
    check_steps(size, f"a sum over {size} channels")
    before, after = (size - 1) // 2, math.ceil((size - 1) / 2)
    padded = torch.constant_pad_nd(x * x, [0, 0] * (x.ndim - 2) + [before, after], 0.0)
    channels = x.shape[1]
    total = torch.narrow(padded, 1, 0, channels)
    for i in range(1, size):
        total = total + torch.narrow(padded, 1, i, channels)
    return x / torch.pow(k + alpha / size * total, beta)


def dropout(node: Node, x: Value, ratio: Value = None, training: Value = None) -> Any:
    """The identity; the mask, where asked for, is all true."""
    if training is not None and not (is_constant(training) and not number(training, "training_mode")):
        zero = ratio is not None and is_constant(ratio) and number(ratio, "ratio") == 0
        if not zero:
            raise Unsupported("training mode", "export the model for inference")
    x = tensor(x)
    if not _wants(node, 1):
        return x.clone()
    return x.clone(), torch.ones_like(x, dtype=x.dtype if node.opset < 10 else torch.bool)


OPERATORS = (
    Operator("BatchNormalization", batch_normalization, 7, buffers=(3, 4)),
    Operator("Dropout", dropout, 7, constants=(1, 2)),
    Operator("GroupNormalization", group_normalization, 18),
    Operator("InstanceNormalization", instance_normalization, 6),
    Operator("LRN", lrn, 1),
    Operator("LayerNormalization", layer_normalization, 17),
    Operator("LpNormalization", lp_normalization, 1),
    Operator("MeanVarianceNormalization", mean_variance_normalization, 9),
    Operator("RMSNormalization", rms_normalization, 23),
)
