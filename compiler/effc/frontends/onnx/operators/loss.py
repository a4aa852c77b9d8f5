"""Losses that some exports keep in the graph."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from effc.frontends.onnx.operators.base import Node, Operator, Value
from effc.frontends.onnx.operators.values import tensor

__all__ = ["OPERATORS"]


def _loss(node: Node, log_probability: Tensor, target: Value, weight: Value) -> Tensor:
    """Negative log likelihood over classes in axis 1; ignored targets count neither in the sum nor in the mean."""
    classes, ignored = tensor(target).to(torch.int64), node.get("ignore_index")
    w = None if weight is None else tensor(weight)
    kind = node.get("reduction", "mean")
    return F.nll_loss(log_probability, classes, w, ignore_index=-100 if ignored is None else int(ignored), reduction=kind)


def negative_log_likelihood(node: Node, x: Value, target: Value, weight: Value = None) -> Tensor:
    return _loss(node, tensor(x), target, weight)


def softmax_cross_entropy(node: Node, x: Value, target: Value, weight: Value = None) -> Any:
    log_probability = torch.log_softmax(tensor(x), 1)
    loss = _loss(node, log_probability, target, weight)
    return (loss, log_probability) if len(node.outputs) > 1 else loss


OPERATORS = (
    Operator("NegativeLogLikelihoodLoss", negative_log_likelihood, 12),
    Operator("SoftmaxCrossEntropyLoss", softmax_cross_entropy, 12),
)
