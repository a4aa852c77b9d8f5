"""`aten.full` as a broadcast constant: TVM 0.27's own meaning fails on infinite values."""

from __future__ import annotations

from typing import Any

from torch import fx

__all__ = ["convert"]


def convert(node: fx.Node, importer: Any) -> Any:
    """A tensor of the node's shape and dtype filled with one number."""
    from tvm import relax

    fake = node.meta["val"]
    value = relax.const(node.args[1], str(fake.dtype).removeprefix("torch."))
    sizes = [int(size) for size in fake.shape]
    return importer.block_builder.emit(relax.op.broadcast_to(value, sizes))
