"""TVM meaning of `effc::keep_top_k`: passes over each row (`anchors_top_k`)."""

from __future__ import annotations

from typing import Any

from torch import fx

from effc.ir.ops.keep_top_k import KEEP_TOP_K
from effc.lowering.anchors_top_k import keep_top_k
from effc.lowering.ops.base import OpKernel

__all__ = ["KERNEL"]


def _convert(node: fx.Node, importer: Any) -> Any:
    x, k = node.args
    return keep_top_k(importer.block_builder, importer.env[x], int(k))  # type: ignore[arg-type]


KERNEL = OpKernel(op=KEEP_TOP_K, convert=_convert)
