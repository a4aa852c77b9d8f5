"""TVM meanings of effc's ops: the table. One file per op, named like the op's definition in `effc.ir.ops`."""

from __future__ import annotations

from effc.lowering.ops import (
    bound,
    conv_integer,
    dequantize_linear,
    keep_top_k,
    matmul_integer,
    qlinear_add,
    qlinear_conv,
    qlinear_global_average_pool,
    qlinear_matmul,
    quantize_linear,
    sparsify,
    statistical_top_k,
    stream_clock,
    truncate,
)
from effc.lowering.ops.base import OpKernel

__all__ = ["OP_KERNELS", "OpKernel"]

OP_KERNELS: tuple[OpKernel, ...] = (
    bound.KERNEL,
    conv_integer.KERNEL,
    dequantize_linear.KERNEL,
    keep_top_k.KERNEL,
    matmul_integer.KERNEL,
    qlinear_add.KERNEL,
    qlinear_conv.KERNEL,
    qlinear_global_average_pool.KERNEL,
    qlinear_matmul.KERNEL,
    quantize_linear.KERNEL,
    sparsify.KERNEL,
    statistical_top_k.KERNEL,
    stream_clock.KERNEL,
    truncate.KERNEL,
)
