"""TVM meanings of effc's ops: the table. One file per op, named like the op's definition in `effc.ir.ops`."""

from __future__ import annotations

from effc.lowering.ops import bound
from effc.lowering.ops.base import OpKernel

__all__ = ["OP_KERNELS", "OpKernel"]

OP_KERNELS: tuple[OpKernel, ...] = (bound.KERNEL,)
