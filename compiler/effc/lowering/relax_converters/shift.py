"""Shifts of integers: arithmetic to the right for signed types, as in torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

__all__ = ["left", "right"]


def _shift(name: str) -> Callable[[fx.Node, Any], Any]:
    def convert(node: fx.Node, importer: Any) -> Any:
        from tvm import relax

        x = importer.env[node.args[0]]
        amount: Any = node.args[1]
        if isinstance(amount, fx.Node):
            by = importer.env[amount]
        else:
            by = relax.const(int(amount), str(node.meta["val"].dtype).removeprefix("torch."))
        return importer.block_builder.emit(getattr(relax.op, name)(x, by))

    return convert


left = _shift("left_shift")
right = _shift("right_shift")
