"""effc's own operators: the table, and their definition in torch.

Importing this package defines the ops in torch's registry (`torch.ops.effc.*`), as defining a class would: a saved program that
contains one can only be loaded after that. To add an op, write its file and add its line to `OPS`.
"""

from __future__ import annotations

from effc.ir.ops.base import NAMESPACE, Cost, OpDef
from effc.ir.ops.bound import BOUND
from effc.ir.ops.dequantize_linear import DEQUANTIZE_LINEAR
from effc.ir.ops.quantize_linear import QUANTIZE_LINEAR

__all__ = ["NAMESPACE", "OPS", "Cost", "OpDef", "find"]

OPS: tuple[OpDef, ...] = (BOUND, DEQUANTIZE_LINEAR, QUANTIZE_LINEAR)

for _op in OPS:
    _op.define()


def find(target: object) -> OpDef | None:
    """The definition behind a graph node's target, or None where the target is not an effc op."""
    return next((op for op in OPS if op.overload is target), None)
