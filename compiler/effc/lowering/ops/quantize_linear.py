"""TVM meaning of `effc::quantize_linear`."""

from __future__ import annotations

from typing import Any

from torch import fx

from effc.ir.ops.quantize_linear import QUANTIZE_LINEAR
from effc.lowering.ops.base import OpKernel
from effc.lowering.ops.quantised import Expressions

__all__ = ["KERNEL"]


def _convert(node: fx.Node, importer: Any) -> Any:
    emit = Expressions(node, importer)
    x, axis = emit.fake(0), int(node.args[3])  # type: ignore[arg-type]
    real = emit.operand(0) if x.is_floating_point() else emit.cast(emit.operand(0), "float32")
    scale = emit.cast(emit.along(1, x.ndim, axis), str(real.ty.dtype))
    return emit.quantise(emit.op("divide", real, scale), emit.along(2, x.ndim, axis))


KERNEL = OpKernel(op=QUANTIZE_LINEAR, convert=_convert)
