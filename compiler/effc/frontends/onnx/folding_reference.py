"""Folding by onnx's own reference evaluator, for operators of few elements whose result is never symbolic.

The evaluator allocates whatever the node asks for, so every operator here states the shapes of its results from its inputs, and they are
taken from the budget first. No control flow, no randomness.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from effc.frontends.onnx.limits import Budget
from effc.frontends.onnx.operators.base import Node
from effc.frontends.onnx.symbolic import Array, is_symbolic

__all__ = ["fold_by_reference"]

_EXTENT = 1 << 16  # elements of all inputs together; the evaluator loops in Python
_ITEMSIZE = 8  # indices are int64, and temporaries wider than the data

Shape = tuple[int, ...]
Shapes = Callable[[Node, Sequence[Array | None]], Sequence[Shape]]


def fold_by_reference(node: Node, inputs: Sequence[Array | None], budget: Budget) -> Array | tuple[Array, ...] | None:
    """The node's value; None where the operator is not in the table, a size is symbolic, or there are too many elements."""
    shapes = _SHAPES.get(node.op)
    if shapes is None or any(is_symbolic(value) for value in inputs):
        return None
    if sum(math.prod(_extent(value)) for value in inputs if value is not None) > _EXTENT:
        return None
    itemsize = max([_ITEMSIZE, *(value.dtype.itemsize for value in inputs if value is not None)])
    for shape in shapes(node, inputs):
        budget.reserve(shape, itemsize, f"{node.name} ({node.op}) of shape {list(shape)}")
    return _evaluate(node, inputs)


def _evaluate(node: Node, inputs: Sequence[Array | None]) -> Array | tuple[Array, ...]:
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    names = [f"x{i}" if value is not None else "" for i, value in enumerate(inputs)]
    outputs = [f"y{i}" if name else "" for i, name in enumerate(node.outputs)]
    proto = helper.make_node(node.op, names, outputs, **dict(node.attributes))
    graph = helper.make_graph([proto], "folded", [], [])
    graph.input.extend(helper.make_empty_tensor_value_info(name) for name in names if name)
    graph.output.extend(helper.make_empty_tensor_value_info(name) for name in outputs if name)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", node.opset)])
    feeds = {name: value for name, value in zip(names, inputs, strict=True) if name}
    given = iter(ReferenceEvaluator(model).run(None, feeds))
    results = tuple(np.asarray(next(given)) if name else np.empty(0) for name in node.outputs)
    return results[0] if len(results) == 1 else results


# ---- shapes of results -----------------------------------------------------------------------------------------------------------


def _extent(value: Array | None) -> Shape:
    """The shape with empty axes counted as one: loops and reductions go over the other axes all the same."""
    return () if value is None else tuple(max(1, size) for size in value.shape)


def _of_first(node: Node, inputs: Sequence[Array | None]) -> Sequence[Shape]:
    """Every result has at most the first input's elements."""
    return [_extent(inputs[0])] * len(node.outputs)


def _broadcast(node: Node, inputs: Sequence[Array | None]) -> Sequence[Shape]:
    return [np.broadcast_shapes(*(value.shape for value in inputs if value is not None))]


def _gather_nd(node: Node, inputs: Sequence[Array | None]) -> Sequence[Shape]:
    """One slice of the data for each index tuple, and the same tuples may come again and again."""
    data, indices = inputs[:2]
    assert data is not None and indices is not None
    if indices.ndim == 0:
        raise ValueError("its indices are a single number, not tuples")
    return [(*indices.shape[:-1], *data.shape[int(node.get("batch_dims", 0)) + indices.shape[-1] :])]


def _non_zero(node: Node, inputs: Sequence[Array | None]) -> Sequence[Shape]:
    return [(len(_extent(inputs[0])), math.prod(_extent(inputs[0])))]


def _split(node: Node, inputs: Sequence[Array | None]) -> Sequence[Shape]:
    """The evaluator makes as many parts as the node says, which may be more than it has outputs."""
    parts = node.get("num_outputs", len(node.outputs))
    if parts != len(node.outputs):
        raise ValueError(f"num_outputs is {parts}, but it has {len(node.outputs)} outputs")
    return [_extent(inputs[0])]


def _top_k(node: Node, inputs: Sequence[Array | None]) -> Sequence[Shape]:
    """The evaluator counts up to k before it looks how many elements there are."""
    shape = list(_extent(inputs[0]))
    k = inputs[1].reshape(-1)[0] if len(inputs) > 1 and inputs[1] is not None else node.get("k", 1)
    shape[int(node.get("axis", -1))] = int(k)
    return [tuple(shape)] * 2


_SHAPES: Mapping[str, Shapes] = {
    **dict.fromkeys(("Abs", "BitwiseNot", "Ceil", "Cos", "CumSum", "Erf", "Exp", "Flatten", "Floor", "IsInf", "IsNaN", "Log"), _of_first),
    **dict.fromkeys(("Reciprocal", "Relu", "Round", "Sigmoid", "Sign", "Sin", "Sqrt", "Tanh", "Trilu"), _of_first),
    **dict.fromkeys(("ArgMax", "ArgMin", "ReduceL1", "ReduceL2", "ReduceMean", "ReduceSumSquare"), _of_first),
    **dict.fromkeys(("Compress", "ScatterElements", "ScatterND", "Unique"), _of_first),
    **dict.fromkeys(("BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Clip"), _broadcast),
    **dict.fromkeys(("Mean", "Pow", "Sum"), _broadcast),
    "GatherND": _gather_nd,
    "NonZero": _non_zero,
    "Split": _split,
    "TopK": _top_k,
}
