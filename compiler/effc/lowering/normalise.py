"""Cures, on the ATen graph, for what TVM's importer gets wrong without an error.

- `aten.select.int` with a negative index reads foreign memory: the dimension's size is added.
- `x != x`, which torch makes of isnan, is simplified to false: isnan goes in its place.
- Index tensors that may hold negative values (`aten.index.Tensor`, `index_put`, `take`) do the same: `where(i < 0, i + n, i)` goes in
  front, unless their dtype is bool or unsigned, or their data are known and never negative.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from effc.ir import Edit, Program

__all__ = ["normalise"]

_aten = torch.ops.aten
_INDEXED = (_aten.index.Tensor, _aten._unsafe_index.Tensor, _aten.index_put.default, _aten._unsafe_index_put.default)


def normalise(program: Program) -> Program:
    """The program without negative indices. Values are the same bit for bit."""
    edit = Edit(program)
    for node in edit.nodes:
        if node.target == _aten.select.int:
            _select(node)
        elif node.target == _aten.ne.Tensor and node.args[0] is node.args[1]:
            # How torch spells isnan. TVM simplifies x != x to false.
            node.target, node.args = _aten.isnan.default, (node.args[0],)
        elif node.target in _INDEXED:
            shape = node.args[0].meta["val"].shape  # type: ignore[union-attr]
            indices = list(node.args[1])  # type: ignore[arg-type]
            node.args = (node.args[0], _wrapped(edit, node, indices, shape), *node.args[2:])
        elif node.target == _aten.take.default:
            elements = node.args[0].meta["val"].numel()  # type: ignore[union-attr]
            node.args = (node.args[0], *_wrapped(edit, node, [node.args[1]], [elements]))
    return edit.done()


def _select(node: fx.Node) -> None:
    source, dimension, index = node.args
    if isinstance(index, int) and index < 0:
        node.args = (source, dimension, index + source.meta["val"].shape[dimension])  # type: ignore[union-attr]


def _wrapped(edit: Edit, node: fx.Node, indices: list[object], sizes: Sequence[int]) -> list[Any]:
    """The index operands, each made non-negative where it might not be."""
    wrapped: list[Any] = []
    axis = 0
    for index in indices:
        if not isinstance(index, fx.Node):
            wrapped.append(index)
            axis += 1
            continue
        kind = index.meta["val"].dtype
        if kind in (torch.bool, torch.uint8):
            wrapped.append(index)
            axis += index.meta["val"].ndim if kind == torch.bool else 1
            continue
        known = edit.tensor(index)
        if known is not None and bool((known >= 0).all()):
            wrapped.append(index)
        else:
            negative = edit.call(_aten.lt.Scalar, (index, 0), like=node, before=node)
            moved = edit.call(_aten.add.Tensor, (index, int(sizes[axis])), like=node, before=node)
            wrapped.append(edit.call(_aten.where.self, (negative, moved, index), like=node, before=node))
        axis += 1
    return wrapped
