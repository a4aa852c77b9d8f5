"""Reductions that TVM's importer lacks: `amax`, `amin` and the product along one axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

__all__ = ["amax", "amin", "product"]


def _reduction(name: str, of_nothing: Callable[[int], list[int]]) -> Callable[[fx.Node, Any], Any]:
    def convert(node: fx.Node, importer: Any) -> Any:
        from tvm import relax

        rank = node.args[0].meta["val"].ndim  # type: ignore[union-attr]
        given: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", ())
        keep = bool(node.args[2] if len(node.args) > 2 else node.kwargs.get("keepdim", False))
        axes = [given] if isinstance(given, int) else list(given) or of_nothing(rank)
        x = importer.env[node.args[0]]
        return importer.block_builder.emit(getattr(relax.op, name)(x, [axis % max(rank, 1) for axis in axes] if rank else [], keep))

    return convert


def _all(rank: int) -> list[int]:
    return list(range(rank))


amax = _reduction("max", _all)
amin = _reduction("min", _all)
product = _reduction("prod", _all)
