"""TVM meaning of `effc::qlinear_add`."""

from __future__ import annotations

from typing import Any

from torch import fx

from effc.ir.ops.qlinear_add import QLINEAR_ADD
from effc.lowering.ops.base import OpKernel
from effc.lowering.ops.quantised import Expressions

__all__ = ["KERNEL"]


def _convert(node: fx.Node, importer: Any) -> Any:
    emit = Expressions(node, importer)
    a = emit.real(0, emit.along(1, 1, 0), emit.along(2, 1, 0))
    b = emit.real(3, emit.along(4, 1, 0), emit.along(5, 1, 0))
    return emit.quantise(emit.op("divide", emit.op("add", a, b), emit.along(6, 1, 0)), emit.along(7, 1, 0))


KERNEL = OpKernel(op=QLINEAR_ADD, convert=_convert)
