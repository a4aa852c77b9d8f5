"""TVM meaning of `effc::qlinear_matmul`."""

from __future__ import annotations

from typing import Any

from torch import fx

from effc.ir.ops.qlinear_matmul import QLINEAR_MATMUL
from effc.lowering.ops.base import OpKernel
from effc.lowering.ops.quantised import Expressions

__all__ = ["KERNEL"]


def _convert(node: fx.Node, importer: Any) -> Any:
    emit = Expressions(node, importer)
    rows, columns = emit.fake(0).ndim, emit.fake(3).ndim
    a, b = emit.centred(0, emit.along(2, rows, 0)), emit.centred(3, emit.along(5, columns, columns - 1))
    sums = emit.op("matmul", a, b, out_dtype="int32")
    if emit.operand(8) is not None:
        sums = emit.op("add", sums, emit.along(8, 1, 0))
    multiplier = emit.multiplier(emit.along(1, 1, 0), emit.along(4, 1, 0), emit.along(6, 1, 0))
    return emit.requantise(sums, multiplier, emit.along(7, 1, 0))


KERNEL = OpKernel(op=QLINEAR_MATMUL, convert=_convert)
