"""`Pad` in all its modes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from effc.frontends.onnx.operators.base import Node, Operator, Unsupported, Value
from effc.frontends.onnx.operators.values import check_table, ints, normal_axis, number, tensor

__all__ = ["OPERATORS"]


def pad(node: Node, x: Value, pads: Value = None, filling: Value = None, axes: Value = None) -> Tensor:
    """Constant, reflected, edge or wrapped elements around the tensor; negative pads crop."""
    x = tensor(x)
    given = [int(item) for item in node.get("pads")] if node.opset < 11 else ints(pads, "pads")
    where = list(range(x.ndim)) if axes is None else [normal_axis(axis, x.ndim) for axis in ints(axes, "axes")]
    if len(given) != 2 * len(where):
        raise Unsupported(f"{len(given)} pads for {len(where)} axes", "the file is malformed; check it with onnx.checker")
    before, after = [0] * x.ndim, [0] * x.ndim
    for i, axis in enumerate(where):
        before[axis], after[axis] = given[i], given[i + len(where)]
    mode = node.get("mode", "constant")
    if mode == "constant":
        return _pad_constant(node, x, before, after, filling)
    for axis in range(x.ndim):
        x = _pad_axis(x, axis, before[axis], after[axis], mode)
    return x


def _pad_constant(node: Node, x: Tensor, before: list[int], after: list[int], filling: Value) -> Tensor:
    pads = [item for low, high in zip(reversed(before), reversed(after), strict=True) for item in (low, high)]
    while len(pads) > 2 and pads[-1] == pads[-2] == 0:
        pads = pads[:-2]
    if isinstance(filling, Tensor):  # computed from data: what is padding is told by a padded mask
        inside = torch.constant_pad_nd(torch.ones_like(x, dtype=torch.bool), pads, False)
        return torch.where(inside, torch.constant_pad_nd(x, pads, 0), filling.reshape(()))
    value: Any = node.get("value", 0.0) if node.opset < 11 else 0 if filling is None else number(filling, "constant_value")
    return torch.constant_pad_nd(x, pads, value)


def _pad_axis(x: Tensor, axis: int, before: int, after: int, mode: str) -> Tensor:
    if before == 0 and after == 0:
        return x
    size = x.shape[axis]
    if not isinstance(size, int):
        raise Unsupported(f"mode {mode} along an axis of symbolic size", "fix the size with --input-shape")
    index = np.arange(size)[max(-before, 0) : size - max(-after, 0)]
    check_table(size + max(before, 0) + max(after, 0), f"padding by {before} and {after}")
    extended: Any = np.pad(index, (max(before, 0), max(after, 0)), mode)  # type: ignore[call-overload]
    return torch.index_select(x, axis, torch.tensor(extended, dtype=torch.int64))


OPERATORS = (Operator("Pad", pad, 2, constants=(1, 2, 3)),)
