"""What an ONNX graph stores: initialisers, Constant nodes and attributes, as numpy arrays and plain values."""

from __future__ import annotations

from typing import Any

import numpy as np

from effc.frontends.onnx.walking import subgraphs

__all__ = ["attribute_value", "initial_values", "is_parameter"]


def initial_values(graph: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Initialisers and Constant nodes, of subgraphs too (names are unique across a model)."""
    from onnx import numpy_helper

    values = {initializer.name: numpy_helper.to_array(initializer) for initializer in graph.initializer}
    values |= {sparse.values.name: _dense(sparse) for sparse in graph.sparse_initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            for attribute in node.attribute:
                value = _constant(attribute_value(attribute), attribute.name)
                if value is not None:
                    values[node.output[0]] = value
        for inner in subgraphs(node):
            values.update(initial_values(inner))
    return values


def _dense(sparse: Any) -> np.ndarray[Any, Any]:
    """A sparse initialiser as the tensor that it stands for; the loader has checked its size."""
    from onnx import numpy_helper

    stored, places = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    dense = np.zeros(tuple(sparse.dims), dtype=stored.dtype)
    if places.ndim == 2:
        dense[tuple(places.T)] = stored
    else:
        dense.reshape(-1)[places] = stored
    return dense


def _constant(value: Any, kind: str) -> np.ndarray[Any, Any] | None:
    if kind == "value":
        return np.asarray(value)
    if kind in ("value_float", "value_floats"):
        return np.asarray(value, dtype=np.float32)
    if kind in ("value_int", "value_ints"):
        return np.asarray(value, dtype=np.int64)
    return None


def attribute_value(attribute: Any) -> Any:
    """An AttributeProto as `Node.attributes` holds it."""
    from onnx import AttributeProto, helper, numpy_helper

    if attribute.type == AttributeProto.TENSOR:
        return numpy_helper.to_array(attribute.t)
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if attribute.type == AttributeProto.STRINGS:
        return [text.decode("utf-8", "replace") for text in value]
    if attribute.type in (AttributeProto.INTS, AttributeProto.FLOATS):
        return list(value)
    return value


def is_parameter(value: np.ndarray[Any, Any]) -> bool:
    """Whether a stored tensor can be one of the network's weights: floating point, and more than a single number."""
    return value.ndim > 0 and (value.dtype.kind == "f" or value.dtype.name == "bfloat16")
