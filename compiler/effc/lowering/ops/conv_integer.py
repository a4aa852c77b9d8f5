"""TVM meaning of `effc::conv_integer`."""

from __future__ import annotations

from typing import Any

from torch import fx

from effc.ir.ops.conv_integer import CONV_INTEGER
from effc.lowering.ops.base import OpKernel
from effc.lowering.ops.quantised import Expressions

__all__ = ["KERNEL"]


def _convert(node: fx.Node, importer: Any) -> Any:
    emit = Expressions(node, importer)
    return emit.convolution(emit.centred(0, 2, 1), emit.centred(1, 3, 0), *node.args[4:8])  # type: ignore[arg-type]


KERNEL = OpKernel(op=CONV_INTEGER, convert=_convert)
