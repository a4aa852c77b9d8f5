"""`aten.index.Tensor`: elements picked by integer tensors, which TVM's importer cannot broadcast against one another.

Negative indices count from the end. An index beyond that, which torch refuses, picks the nearest element: compiled code has no way to
raise, and must not read foreign memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

__all__ = ["convert"]


def convert(node: fx.Node, importer: Any) -> Any:
    """A gather by broadcast indices; masks go TVM's way, because the size of their result depends on data."""
    source, indices = node.args[0].meta["val"], list(node.args[1])  # type: ignore[union-attr, arg-type]
    given = {axis: index for axis, index in enumerate(indices) if isinstance(index, fx.Node)}
    if any(index.meta["val"].dtype in (torch.bool, torch.uint8) for index in given.values()):
        return importer._index_tensor(node)
    from tvm import te, tirx

    shape = [int(size) for size in node.meta["val"].shape]
    common = max(index.meta["val"].ndim for index in given.values())
    axes = sorted(given)
    adjacent = axes == list(range(axes[0], axes[-1] + 1))
    first = axes[0] if adjacent else 0  # where the axes of the indices stand in the result

    def gathered(x: Any, *tensors: Any) -> Any:
        def element(*out: Any) -> Any:
            picked = out[first : first + common]
            rest = iter((*out[:first], *out[first + common :]))
            places = []
            for axis in range(source.ndim):
                if axis not in given:
                    places.append(next(rest))
                    continue
                tensor = tensors[axes.index(axis)]
                own = picked[common - len(tensor.shape) :]
                index = tensor[tuple(0 if int(size) == 1 else i for i, size in zip(own, tensor.shape, strict=True))]
                size = tirx.const(int(source.shape[axis]), tensor.dtype)
                zero = tirx.const(0, tensor.dtype)
                index = tirx.Select(index < zero, index + size, index)
                places.append(tirx.max(tirx.min(index, size - tirx.const(1, tensor.dtype)), zero))
            return x[tuple(places)]

        return te.compute(shape, element, name="index")

    operands = [importer.env[given[axis]] for axis in axes]
    return importer.block_builder.emit_te(gathered, importer.env[node.args[0]], *operands, primfunc_name_hint="index")
