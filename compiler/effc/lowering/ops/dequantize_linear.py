"""TVM meaning of `effc::dequantize_linear`."""

from __future__ import annotations

from typing import Any

from torch import fx

from effc.ir.ops.dequantize_linear import DEQUANTIZE_LINEAR
from effc.lowering.ops.base import OpKernel
from effc.lowering.ops.quantised import Expressions

__all__ = ["KERNEL"]


def _convert(node: fx.Node, importer: Any) -> Any:
    emit = Expressions(node, importer)
    dims, axis = emit.fake(0).ndim, int(node.args[3])  # type: ignore[arg-type]
    return emit.real(0, emit.along(1, dims, axis), emit.along(2, dims, axis))


KERNEL = OpKernel(op=DEQUANTIZE_LINEAR, convert=_convert)
