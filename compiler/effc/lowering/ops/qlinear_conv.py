"""TVM meaning of `effc::qlinear_conv`."""

from __future__ import annotations

from typing import Any

from torch import fx

from effc.ir.ops.qlinear_conv import QLINEAR_CONV
from effc.lowering.ops.base import OpKernel
from effc.lowering.ops.quantised import Expressions

__all__ = ["KERNEL"]


def _convert(node: fx.Node, importer: Any) -> Any:
    emit = Expressions(node, importer)
    dims = emit.fake(0).ndim
    sums = emit.convolution(emit.centred(0, 2, 1), emit.centred(3, 5, 0), *node.args[9:13])  # type: ignore[arg-type]
    if emit.operand(8) is not None:
        sums = emit.op("add", sums, emit.along(8, dims, 1))
    return emit.requantise(sums, emit.multiplier(1, 4, 6, dims, 1), emit.along(7, dims, 1))


KERNEL = OpKernel(op=QLINEAR_CONV, convert=_convert)
