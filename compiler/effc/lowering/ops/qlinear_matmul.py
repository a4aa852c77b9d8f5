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
    sums = emit.product(emit.centred(0, 2, 0), emit.centred(3, 5, emit.fake(3).ndim - 1))
    if emit.operand(8) is not None:
        sums = emit.op("add", sums, emit.along(8, 1, 0))
    return emit.requantise(sums, emit.multiplier(1, 4, 6, 1, 0), emit.along(7, 1, 0))


KERNEL = OpKernel(op=QLINEAR_MATMUL, convert=_convert)
