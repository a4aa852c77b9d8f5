"""Scatters as `index_put` with an index for every axis: TVM's scatter asks for as many index tensors as axes, all of one size and flat.

before: index_put(x[N, M], [i[K]], v[K, M])
after:  index_put(x, [i[K M], m[K M]], v[K M])        with m = 0, 1, ... along M
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx

from effc.ir import Edit

__all__ = ["scatter_add", "write_out"]

_aten = torch.ops.aten


def scatter_add(edit: Edit, node: fx.Node) -> bool:
    """`scatter_add`, and `scatter_reduce` that sums, as an `index_put` that accumulates; False for what is another operator."""
    source, axis, index, values = node.args[:4]
    plain = node.target == _aten.scatter_add.default
    sums = node.target == _aten.scatter_reduce.two and node.args[4] == "sum" and node.kwargs.get("include_self", True)
    shape = index.meta["val"].shape  # type: ignore[union-attr]
    if not (plain or sums) or values.meta["val"].shape != shape or not shape:  # type: ignore[union-attr]
        return False
    indices: list[Any] = []
    for place, size in enumerate(shape):
        along = torch.arange(int(size)).reshape([-1 if one == place else 1 for one in range(len(shape))])
        own = place == axis % len(shape)  # type: ignore[operator]
        indices.append(index if own else edit.add_tensor(f"{node.name}.axis{place}", along, kind="buffer"))
    node.target, node.args, node.kwargs = _aten.index_put.default, (source, indices, values, True), {}
    return True


def write_out(edit: Edit, node: fx.Node) -> None:
    """Rewrite one `index_put` in place; one whose indices are masks, or are all there already, stays."""
    source, indices, values = node.args[0], list(node.args[1]), node.args[2]  # type: ignore[arg-type]
    sizes = source.meta["val"].shape  # type: ignore[union-attr]
    indices += [None] * (len(sizes) - len(indices))
    given = {axis: index for axis, index in enumerate(indices) if isinstance(index, fx.Node)}
    shapes = [index.meta["val"].shape for index in given.values()]
    if any(index.meta["val"].dtype in (torch.bool, torch.uint8) for index in given.values()):
        return
    flat = len(set(shapes)) == 1 and len(shapes[0]) == 1
    if flat and len(given) == len(sizes) and values.meta["val"].shape == shapes[0]:  # type: ignore[union-attr]
        return
    common = list(np.broadcast_shapes(*(tuple(map(int, shape)) for shape in shapes)))
    axes = sorted(given)
    first = axes[0] if axes == list(range(axes[0], axes[-1] + 1)) else 0
    others = [axis for axis in range(len(sizes)) if axis not in given]
    before, after = others[:first], others[first:]
    result = [*(int(sizes[axis]) for axis in before), *common, *(int(sizes[axis]) for axis in after)]

    def flattened(tensor: Any) -> fx.Node:
        spread = edit.call(_aten.expand.default, (tensor, result), like=node, before=node)
        return edit.call(_aten.reshape.default, (spread, [-1]), like=node, before=node)

    full: list[Any] = []
    for axis in range(len(sizes)):
        if axis in given:
            shape = [*given[axis].meta["val"].shape]
            value = edit.call(_aten.view.default, (given[axis], [*shape, *[1] * len(after)]), like=node, before=node)
            full.append(flattened(value))
        else:
            place = before.index(axis) if axis in before else len(before) + len(common) + after.index(axis)
            along = torch.arange(int(sizes[axis])).reshape([-1 if one == place else 1 for one in range(len(result))])
            stored = edit.add_tensor(f"{node.name}.axis{axis}", along, kind="buffer")
            full.append(flattened(stored))
    node.args = (source, full, flattened(values), *node.args[3:])
