"""TVM meaning of `effc::bound`: comparisons and selections that fuse into the producing kernel's epilogue."""

from __future__ import annotations

from typing import Any

from torch import fx

from effc.ir.ops.bound import BOUND
from effc.lowering.ops.base import OpKernel

__all__ = ["KERNEL"]


def _convert(node: fx.Node, importer: Any) -> Any:
    from tvm import relax

    x, lower, upper = (importer.env[argument] for argument in node.args[:3])
    emit, op = importer.block_builder.emit, relax.op
    below, above = emit(op.less(x, lower)), emit(op.greater(x, upper))
    if node.args[3] == "clamp":
        kept = emit(op.where(below, lower, emit(op.where(above, upper, x))))
    else:
        zero = relax.const(0, x.ty.dtype)
        kept = emit(op.where(emit(op.logical_or(below, above)), zero, x))
    return emit(op.where(emit(op.isnan(x)), lower, kept))


KERNEL = OpKernel(op=BOUND, convert=_convert)
