"""TVM meaning of `effc::statistical_top_k`: passes over each row (`anchors_top_k`)."""

from __future__ import annotations

from typing import Any

from torch import fx

from effc.ir.ops.statistical_top_k import STATISTICAL_TOP_K
from effc.lowering.anchors_top_k import statistical_top_k
from effc.lowering.ops.base import OpKernel

__all__ = ["KERNEL"]


def _convert(node: fx.Node, importer: Any) -> Any:
    x, deviations, form = node.args
    return statistical_top_k(importer.block_builder, importer.env[x], float(deviations), str(form))  # type: ignore[arg-type]


KERNEL = OpKernel(op=STATISTICAL_TOP_K, convert=_convert)
