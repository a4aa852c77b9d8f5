"""TVM meaning of `effc::bound`: comparisons and selections that fuse into the producing kernel's epilogue."""

from __future__ import annotations

from typing import Any

from torch import fx

from effc.ir.ops.bound import BOUND
from effc.lowering.ops.base import OpKernel

__all__ = ["KERNEL"]


def _convert(node: fx.Node, importer: Any) -> Any:
    from tvm import relax

    emit, op = importer.block_builder.emit, relax.op
    x, upper = importer.env[node.args[0]], importer.env[node.args[2]]
    zero = relax.const(0, x.ty.dtype)
    lower = zero if node.args[1] is None else importer.env[node.args[1]]
    below, above = emit(op.less(x, lower)), emit(op.greater(x, upper))
    if node.args[3] == "clamp":
        kept = emit(op.where(below, lower, emit(op.where(above, upper, x))))
    else:
        kept = emit(op.where(emit(op.logical_or(below, above)), zero, x))
    return emit(op.where(emit(op.isnan(x)), lower, kept))


KERNEL = OpKernel(op=BOUND, convert=_convert)
