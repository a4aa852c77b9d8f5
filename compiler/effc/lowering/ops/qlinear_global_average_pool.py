"""TVM meaning of `effc::qlinear_global_average_pool`."""

from __future__ import annotations

import math
from typing import Any

from torch import fx

from effc.ir.ops.qlinear_global_average_pool import QLINEAR_GLOBAL_AVERAGE_POOL
from effc.lowering.ops.base import OpKernel
from effc.lowering.ops.quantised import Expressions

__all__ = ["KERNEL"]


def _convert(node: fx.Node, importer: Any) -> Any:
    from tvm import relax

    emit = Expressions(node, importer)
    x = emit.fake(0)
    steps = emit.cast(emit.centred(0, 2, 1), "int32")
    sums = emit.op("sum", steps, axis=list(range(2, x.ndim)), keepdims=True)
    count = relax.const(float(math.prod(x.shape[2:])), "float32")
    multiplier = emit.op("divide", emit.along(1, 1, 0), emit.op("multiply", emit.along(3, 1, 0), count))
    return emit.requantise(sums, multiplier, emit.along(4, 1, 0))


KERNEL = OpKernel(op=QLINEAR_GLOBAL_AVERAGE_POOL, convert=_convert)
