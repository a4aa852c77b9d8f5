"""TVM meaning of `effc::sparsify`: a comparison and a selection that fuse into the kernel behind it, or in front of it."""

from __future__ import annotations

from typing import Any

from torch import fx

from effc.ir.ops.sparsify import SPARSIFY
from effc.lowering.ops.base import OpKernel

__all__ = ["KERNEL"]


def _convert(node: fx.Node, importer: Any) -> Any:
    from tvm import relax

    x, threshold = (importer.env[argument] for argument in node.args[:2])
    emit, op = importer.block_builder.emit, relax.op
    if node.args[2] == "magnitude":
        dropped = emit(op.less_equal(emit(op.abs(x)), threshold))
    else:
        dropped = emit(op.less(x, threshold))
    return emit(op.where(dropped, relax.const(0, x.ty.dtype), x))


KERNEL = OpKernel(op=SPARSIFY, convert=_convert)
