"""ONNX operators: the table. One file per family, one small torch function per operator."""

from __future__ import annotations

from effc.frontends.onnx.operators import activation, arithmetic, convolution, indexing, normalisation, pooling, reduction, shape
from effc.frontends.onnx.operators.base import Node, Operator, Unsupported, Value, integers

__all__ = ["OPERATORS", "Node", "Operator", "Unsupported", "Value", "find", "integers"]

_FAMILIES = (activation, arithmetic, convolution, indexing, normalisation, pooling, reduction, shape)

OPERATORS: dict[tuple[str, str], Operator] = {(entry.domain, entry.op): entry for family in _FAMILIES for entry in family.OPERATORS}


def find(domain: str, op: str, opset: int) -> Operator:
    """The table's entry. Raises Unsupported, naming the nearest thing that works."""
    entry = OPERATORS.get((domain, op))
    if entry is None:
        raise Unsupported(f"effc has no operator {domain + ':' if domain else ''}{op}", _nearest(op))
    if opset < entry.since:
        raise Unsupported(f"the form of opset {opset} is not covered", f"opset {entry.since} or later works")
    return entry


def _nearest(op: str) -> str:
    import difflib

    near = difflib.get_close_matches(op, [name for _, name in OPERATORS], 1)
    return f"nearest: {near[0]}" if near else ""
