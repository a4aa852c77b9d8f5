"""The contract of an ONNX operator: one small torch function, and the table entry that says when it applies.

A value that flows between operators is a torch tensor, or a numpy array when it is known while tracing (initialisers that are not
floating point, shapes, and what is computed from them). A numpy array of dtype object is an int64 tensor some of whose elements are
symbolic sizes. An operator function is called as `function(node, *inputs)`, the inputs in order, None for an optional input that is
absent (trailing ones may be left out), and returns one value or a tuple of them. It raises `Unsupported` for a form that it does not
cover. Functions also accept inputs that are all numpy; those of shape arithmetic then compute in numpy, symbolic sizes included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

__all__ = ["Node", "Operator", "Unsupported", "Value"]

Value = torch.Tensor | np.ndarray | None


class Unsupported(Exception):  # noqa: N818 - it becomes a Problem of an UnsupportedModelError
    """This form of the operator is not covered. `why` goes into the user's table, `hint` names the nearest thing that works."""

    def __init__(self, why: str, hint: str = "") -> None:
        super().__init__(why)
        self.why = why
        self.hint = hint


@dataclass(frozen=True)
class Node:
    """One ONNX node as operator functions see it.

    Attributes:
        name: the node's name, or `Op_17` (operator and position) where the file gives none.
        op: operator type; domain: "" for ai.onnx.
        opset: the version of the node's domain that the model imports.
        attributes: by name; tensors as numpy arrays, strings decoded, graphs as onnx GraphProto.
        outputs: names of the outputs, "" for an omitted one.
    """

    name: str
    op: str
    domain: str
    opset: int
    attributes: Mapping[str, Any]
    outputs: Sequence[str]

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute, or the default where the node does not carry it."""
        return self.attributes.get(name, default)


@dataclass(frozen=True)
class Operator:
    """One row of the table.

    Attributes:
        op, domain: which ONNX operator.
        function: the meaning in torch.
        since: the lowest opset whose form `function` understands (it branches on `node.opset` above that).
        constants: positions of inputs that steer the operator (axes, bounds, scales). Where the file gives them as constants they
            must reach `function` as numpy arrays, floating point ones too, not as parameters.
        buffers: positions of inputs whose stored tensors are no parameters, because they do not train.
        quantised: all stored inputs are buffers: integer weights and biases, scales, zero points.
        stays: never folded, so that the quantisation of weights stays visible to passes, faults and kernels.
    """

    op: str
    function: Callable[..., Any]
    since: int = 1
    domain: str = ""
    constants: tuple[int, ...] = ()
    buffers: tuple[int, ...] = ()
    quantised: bool = False
    stays: bool = False
