"""`aten.sort.stable`: TVM's argsort is stable, and the sorted values are gathered by it."""

from __future__ import annotations

from typing import Any

from torch import fx

__all__ = ["convert"]


def convert(node: fx.Node, importer: Any) -> Any:
    """(values, indices); equal elements keep their order."""
    from tvm import relax

    x = importer.env[node.args[0]]
    fake = node.args[0].meta["val"]  # type: ignore[union-attr]
    given: dict[str, Any] = dict(zip(("stable", "dim", "descending"), node.args[1:], strict=False)) | dict(node.kwargs)
    axis = int(given.get("dim", -1)) % max(fake.ndim, 1)
    emit = importer.block_builder.emit
    indices = emit(relax.op.argsort(x, axis=axis, descending=bool(given.get("descending", False)), dtype="int64"))
    return emit(relax.Tuple([emit(relax.op.gather_elements(x, indices, axis)), indices]))
