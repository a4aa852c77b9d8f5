"""`aten.select.int` as a slice: TVM's importer makes it a gather whose index is not checked, and warns about it on every use."""

from __future__ import annotations

from typing import Any

from torch import fx

__all__ = ["convert"]


def convert(node: fx.Node, importer: Any) -> Any:
    """The slice of one index along a dimension, that dimension dropped; negative indices were normalised before."""
    from tvm import relax

    x = importer.env[node.args[0]]
    fake = node.args[0].meta["val"]  # type: ignore[union-attr]
    axis, index = int(node.args[1]) % fake.ndim, int(node.args[2])  # type: ignore[arg-type]
    index += int(fake.shape[axis]) if index < 0 else 0
    emit = importer.block_builder.emit
    return emit(relax.op.squeeze(emit(relax.op.strided_slice(x, axes=[axis], begin=[index], end=[index + 1])), [axis]))
