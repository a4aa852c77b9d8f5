"""What is known while the graph is read is computed there: shape arithmetic in numpy, on numbers and on symbolic sizes.

Shape -> Gather -> Concat -> Reshape chains vanish here, before torch sees them. Nothing here allocates before the result's size passed
the limits. Small functions compute the operators that also meet symbolic sizes (`folding_arithmetic`, `folding_moves`), onnx's own
reference evaluator some others (`folding_reference`). Whatever is in neither is left to the operator table (`None`).
"""

from __future__ import annotations

from collections.abc import Sequence

from effc.frontends.onnx.folding_arithmetic import ARITHMETIC
from effc.frontends.onnx.folding_moves import MOVES
from effc.frontends.onnx.folding_reference import fold_by_reference
from effc.frontends.onnx.limits import Budget
from effc.frontends.onnx.operators.base import Node
from effc.frontends.onnx.symbolic import Array

__all__ = ["fold"]

_RULES = {**ARITHMETIC, **MOVES}


def fold(node: Node, inputs: Sequence[Array | None], budget: Budget) -> Array | tuple[Array, ...] | None:
    """The node's value where all its inputs are known and it is an operator of shape arithmetic; None where it is not.

    Raises:
        LimitError: the result would be over `tensor_elements` or `folded_bytes`.
        ValueError, IndexError: the inputs do not fit the operator (a malformed graph).
    """
    if node.domain not in ("", "ai.onnx") or any(value is not None and value.dtype.kind in "US" for value in inputs):
        return None
    rule = _RULES.get(node.op)
    return rule(node, list(inputs), budget) if rule is not None else fold_by_reference(node, inputs, budget)
