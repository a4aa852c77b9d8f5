"""`aten.split_with_sizes` with parts that have no elements, which TVM cannot split off."""

from __future__ import annotations

from typing import Any

from torch import fx

__all__ = ["convert"]


def convert(node: fx.Node, importer: Any) -> Any:
    """One slice a part."""
    from tvm import relax

    given: Any = node.args
    emit, x, rank = importer.block_builder.emit, importer.env[given[0]], given[0].meta["val"].ndim
    axis = (given[2] if len(given) > 2 else node.kwargs.get("dim", 0)) % rank
    parts, start = [], 0
    for part in node.meta["val"]:
        shape = [int(size) for size in part.shape]
        if 0 in shape:
            parts.append(emit(relax.op.zeros(shape, str(part.dtype).removeprefix("torch."))))
        else:
            parts.append(emit(relax.op.strided_slice(x, [axis], [start], [start + shape[axis]])))
        start += shape[axis]
    return parts
