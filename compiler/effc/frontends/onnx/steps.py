"""Quantisation steps: the unit in which outputs of quantised networks are compared.

Two sound readers of a quantised network add in different orders, so a value near a tie may be rounded to either side: it is one step of
its quantiser off, which is far more than float sums explain. The steps of an output are those of the quantiser that it comes from:

    DequantizeLinear -> [Reshape ...] -> output     |difference| / scale
    the same -> Softmax or Sigmoid -> output        |difference of the logits| / scale, where the logit of p is log(p / (1 - p))
    QuantizeLinear, QLinear... -> output            |difference| of the integers

The logit of a softmax's probability is its input against all the others together, so it moves by no more steps than the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import numpy_helper

__all__ = ["Step", "in_steps", "output_steps"]

Array = np.ndarray[Any, Any]

_SQUASHING = ("Softmax", "Sigmoid")
_MOVING = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity")
_FAINT = 1e-6  # probabilities nearer to 0 or 1 have no digits left in float32


@dataclass(frozen=True)
class Step:
    """The quantiser of an output.

    Attributes:
        size: one step in real numbers: the scale, the largest where there is one a channel; 1 where the output is the integers.
        squashed: whether a softmax or a sigmoid stands between the quantiser and the output.
    """

    size: float
    squashed: bool = False


def output_steps(graph: Any) -> dict[str, Step]:
    """The step of every output of a GraphProto that comes from a quantiser with a stored scale."""
    makers = {name: node for node in graph.node for name in node.output}
    stored = {one.name: one for one in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            stored.update((node.output[0], attribute.t) for attribute in node.attribute if attribute.name == "value")
    found = {output.name: _step(output.name, makers, stored) for output in graph.output}
    return {name: step for name, step in found.items() if step is not None}


def _step(name: str, makers: dict[str, Any], stored: dict[str, Any]) -> Step | None:
    squashed = False
    node = makers.get(name)
    while node is not None and node.op_type in (*_MOVING, *_SQUASHING):
        if node.op_type in _SQUASHING and squashed:
            return None
        squashed |= node.op_type in _SQUASHING
        node = makers.get(node.input[0])
    if node is None:
        return None
    if node.op_type == "DequantizeLinear" and node.input[1] in stored:
        scale = numpy_helper.to_array(stored[node.input[1]]).astype(np.float64)
        return Step(float(np.abs(scale).max()), squashed) if scale.size and np.abs(scale).max() > 0 else None
    whole = node.op_type == "QuantizeLinear" or node.op_type.startswith("QLinear")
    return Step(1.0) if whole and not squashed else None


def in_steps(got: Array, want: Array, step: Step) -> Array:
    """The signed difference of finite values in steps, element by element."""
    left, right = got.astype(np.float64), want.astype(np.float64)
    if step.squashed:
        left, right = _logit(left), _logit(right)
    difference: Array = (left - right) / step.size
    return difference


def _logit(probability: Array) -> Array:
    kept = np.clip(probability, _FAINT, 1 - _FAINT)
    result: Array = np.log(kept) - np.log1p(-kept)
    return result
