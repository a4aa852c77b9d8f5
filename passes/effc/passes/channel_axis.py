"""Which axis of an activation counts channels: seen from the layer that makes it."""

from __future__ import annotations

import re
from collections.abc import Set

from torch import Tensor, fx

__all__ = ["channel_axis"]

_CONVOLUTION = re.compile(r"aten\.conv")
_DEPTH = 12  # nodes that are looked at in front of a ReLU for its layer


def channel_axis(node: fx.Node, linear: Set[str]) -> int | None:
    """Axis 1 behind a convolution, the last one behind a linear layer; None where that is not known or its size is not fixed."""
    value = node.meta["val"]
    pending, seen = [node], {node}
    for _ in range(_DEPTH):
        if not pending:
            break
        current = pending.pop(0)
        axis = 1 if _CONVOLUTION.match(str(current.target)) else value.ndim - 1 if current.name in linear else None
        if axis is not None:
            return axis if 0 < axis < value.ndim and isinstance(value.shape[axis], int) else None
        for argument in current.all_input_nodes:
            same = isinstance(argument.meta.get("val"), Tensor) and argument.meta["val"].ndim == value.ndim
            if argument.op == "call_function" and same and argument not in seen:
                seen.add(argument)
                pending.append(argument)
    return None
