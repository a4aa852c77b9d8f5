"""Reductions that TVM's importer lacks or gets wrong: `amax`, `amin` and the product along one axis.

TVM's own maximum starts at the lowest finite number, so that of nothing but minus infinity comes out finite, and it skips NaN; torch's
starts at minus infinity and hands NaN on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
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


def _floating(name: str) -> Callable[[fx.Node, Any], Any]:
    """The extreme over axes with the right neutral element, NaN included; integers go TVM's way."""
    integers = _reduction(name, _all)

    def convert(node: fx.Node, importer: Any) -> Any:
        from tvm import relax, te, tirx

        source = node.args[0].meta["val"]  # type: ignore[union-attr]
        if not (source.dtype.is_floating_point or source.dtype == torch.bool) or source.ndim == 0:
            return integers(node, importer)
        given: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", ())
        axes = sorted({axis % source.ndim for axis in ([given] if isinstance(given, int) else list(given) or _all(source.ndim))})
        shape = [int(size) for size in node.meta["val"].shape]
        keep = len(shape) == source.ndim

        def combined(a: Any, b: Any) -> Any:
            ahead = a >= b if name == "max" else a <= b
            if source.dtype == torch.bool:
                return tirx.Select(ahead, a, b)
            return tirx.Select(tirx.any(ahead, tirx.isnan(a)), a, b)

        def reduced(x: Any) -> Any:
            along = [te.reduce_axis((0, int(source.shape[axis])), name=f"k{axis}") for axis in axes]
            if source.dtype == torch.bool:
                bound: float = 0 if name == "max" else 1
            else:
                bound = float("-inf") if name == "max" else float("inf")
            reducer = te.comm_reducer(combined, lambda dtype: tirx.const(bound, dtype), name=name)

            def element(*outer: Any) -> Any:
                left = iter(outer)
                inner = iter(along)
                index = []
                for axis in range(source.ndim):
                    if axis in axes:
                        index.append(next(inner).var)
                        if keep:
                            next(left)
                    else:
                        index.append(next(left))
                return reducer(x[tuple(index)], axis=along)

            return te.compute(shape, element, name=f"a{name}")

        value = importer.env[node.args[0]]
        if source.dtype == torch.bool:  # which has no order in TVM
            value = importer.block_builder.emit(relax.op.astype(value, "int8"))
        return importer.block_builder.emit_te(reduced, value, primfunc_name_hint=f"a{name}")

    return convert


amax = _floating("max")
amin = _floating("min")
product = _reduction("prod", _all)
