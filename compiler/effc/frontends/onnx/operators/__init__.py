"""The table of the ONNX operators that effc reads: one torch function each, grouped by family."""

from __future__ import annotations

from effc.frontends.onnx.operators import (
    activation,
    arithmetic,
    attention,
    comparison,
    convolution,
    creation,
    indexing,
    linear,
    loss,
    normalisation,
    padding,
    pooling,
    quantized,
    recurrent,
    reduction,
    resize,
    sampling,
    shape,
    signal,
    stateful,
)
from effc.frontends.onnx.operators.base import Operator

__all__ = ["OPERATORS", "find"]

_FAMILIES = (
    activation,
    arithmetic,
    attention,
    comparison,
    convolution,
    creation,
    indexing,
    linear,
    loss,
    normalisation,
    padding,
    pooling,
    quantized,
    recurrent,
    reduction,
    resize,
    sampling,
    shape,
    signal,
    stateful,
)

OPERATORS: dict[tuple[str, str], Operator] = {(row.domain, row.op): row for family in _FAMILIES for row in family.OPERATORS}


def find(domain: str, op_type: str, opset: int) -> Operator | None:
    """The row for an operator in a model that imports `opset` of its domain; None where effc has none for it."""
    row = OPERATORS.get(("" if domain == "ai.onnx" else domain, op_type))
    return row if row is not None and row.since <= opset else None
