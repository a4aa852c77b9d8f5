"""effc's own operators: the table, and their definition in torch.

Importing this package defines the ops in torch's registry (`torch.ops.effc.*`), as defining a class would: a saved program that
contains one can only be loaded after that. To add an op, write its file and add its line to `OPS`.
"""

from __future__ import annotations

from effc.ir.ops.base import NAMESPACE, Cost, OpDef
from effc.ir.ops.bound import BOUND
from effc.ir.ops.conv_integer import CONV_INTEGER
from effc.ir.ops.dequantize_linear import DEQUANTIZE_LINEAR
from effc.ir.ops.keep_top_k import KEEP_TOP_K
from effc.ir.ops.matmul_integer import MATMUL_INTEGER
from effc.ir.ops.qlinear_add import QLINEAR_ADD
from effc.ir.ops.qlinear_conv import QLINEAR_CONV
from effc.ir.ops.qlinear_global_average_pool import QLINEAR_GLOBAL_AVERAGE_POOL
from effc.ir.ops.qlinear_matmul import QLINEAR_MATMUL
from effc.ir.ops.quantize_linear import QUANTIZE_LINEAR
from effc.ir.ops.sparsify import SPARSIFY
from effc.ir.ops.statistical_top_k import STATISTICAL_TOP_K
from effc.ir.ops.stream_clock import STREAM_CLOCK
from effc.ir.ops.truncate import TRUNCATE

__all__ = ["NAMESPACE", "OPS", "Cost", "OpDef", "find"]

OPS: tuple[OpDef, ...] = (
    BOUND,
    CONV_INTEGER,
    DEQUANTIZE_LINEAR,
    KEEP_TOP_K,
    MATMUL_INTEGER,
    QLINEAR_ADD,
    QLINEAR_CONV,
    QLINEAR_GLOBAL_AVERAGE_POOL,
    QLINEAR_MATMUL,
    QUANTIZE_LINEAR,
    SPARSIFY,
    STATISTICAL_TOP_K,
    STREAM_CLOCK,
    TRUNCATE,
)

for _op in OPS:
    _op.define()


def find(target: object) -> OpDef | None:
    """The definition behind a graph node's target, or None where the target is not an effc op."""
    return next((op for op in OPS if op.overload is target), None)
