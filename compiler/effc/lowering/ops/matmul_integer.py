"""TVM meaning of `effc::matmul_integer`."""

from __future__ import annotations

from typing import Any

from torch import fx

from effc.ir.ops.matmul_integer import MATMUL_INTEGER
from effc.lowering.ops.base import OpKernel
from effc.lowering.ops.quantised import Expressions

__all__ = ["KERNEL"]


def _convert(node: fx.Node, importer: Any) -> Any:
    emit = Expressions(node, importer)
    rows, columns = emit.fake(0).ndim, emit.fake(1).ndim
    return emit.product(emit.centred(0, 2, max(rows - 2, 0)), emit.centred(1, 3, columns - 1))


KERNEL = OpKernel(op=MATMUL_INTEGER, convert=_convert)
