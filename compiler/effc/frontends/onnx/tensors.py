"""Every tensor that a model stores, and whether its data back the size that it declares."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from effc.errors import InputRejectedError
from effc.frontends.onnx.limits import Budget, Limits
from effc.frontends.onnx.walking import subgraphs

__all__ = ["check_sparse", "check_tensor", "sparse_tensors", "tensors_of"]


def tensors_of(model: Any) -> Iterator[Any]:
    """Every TensorProto of a model: initialisers and attributes, of subgraphs and functions too."""
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        yield from _node_tensors(function.node)


def _graph_tensors(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Iterable[Any]) -> Iterator[Any]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                if sparse.HasField("values"):
                    yield sparse.values
                    yield sparse.indices
        for graph in subgraphs(node):
            yield from _graph_tensors(graph)


def sparse_tensors(model: Any) -> Iterator[Any]:
    """Every SparseTensorProto: a few stored values may stand for any size."""
    for nodes in (model.graph.node, *(function.node for function in model.functions)):
        yield from _sparse_attributes(nodes)
    yield from model.graph.sparse_initializer


def _sparse_attributes(nodes: Iterable[Any]) -> Iterator[Any]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("sparse_tensor"):
                yield attribute.sparse_tensor
            yield from attribute.sparse_tensors
        for graph in subgraphs(node):
            yield from graph.sparse_initializer
            yield from _sparse_attributes(graph.node)


def check_tensor(tensor: Any, limits: Limits) -> None:
    """Sizes that the data cannot back are refused here, so that no later step allocates for them."""
    import onnx

    where = f"the tensor {tensor.name or '(unnamed)'}"
    if any(size < 0 for size in tensor.dims):
        raise InputRejectedError(f"{where} has a negative dimension: {list(tensor.dims)}")
    elements = limits.check_shape(tensor.dims, f"{where} of shape {list(tensor.dims)}")
    known = tensor.data_type in onnx.TensorProto.DataType.values() and tensor.data_type != onnx.TensorProto.UNDEFINED
    if not known:
        raise InputRejectedError(f"{where} has an unknown data type ({tensor.data_type})")
    if tensor.data_type == onnx.TensorProto.STRING:
        return
    held = _held_elements(tensor)
    if held is not None and held < elements:
        raise InputRejectedError(f"{where} of shape {list(tensor.dims)} needs {elements} elements, the file holds {held}")


def _held_elements(tensor: Any) -> int | None:
    """How many elements the proto's data can fill; None where the element type packs several into a byte."""
    import onnx

    if str(onnx.helper.tensor_dtype_to_string(tensor.data_type)).endswith(("INT4", "INT2", "FLOAT4E2M1")):
        return None
    if tensor.HasField("raw_data"):
        return len(tensor.raw_data) // int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    counts = [len(tensor.float_data), len(tensor.int32_data), len(tensor.int64_data), len(tensor.double_data), len(tensor.uint64_data)]
    packs = tensor.data_type in (onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128)
    return max(counts) // 2 if packs else max(counts)


def check_sparse(tensors: Iterable[Any], limits: Limits) -> None:
    """Sparse tensors become dense ones: their declared sizes are constants computed from the graph, and every value has its place."""
    from onnx import TensorProto, helper, numpy_helper

    budget = Budget(limits)
    for sparse in tensors:
        shape, where = list(sparse.dims), f"the sparse tensor {sparse.values.name or '(unnamed)'} of shape {list(sparse.dims)}"
        if any(size < 0 for size in shape):
            raise InputRejectedError(f"{where} has a negative dimension")
        if sparse.values.data_type == TensorProto.STRING:
            raise InputRejectedError(f"{where} holds strings")
        itemsize = int(helper.tensor_dtype_to_np_dtype(sparse.values.data_type).itemsize)
        budget.reserve(shape, itemsize, where)
        places, count = numpy_helper.to_array(sparse.indices), math.prod(sparse.values.dims)
        flat, full = places.shape == (count,), places.shape == (count, len(shape))
        bounds = np.array(shape if full else math.prod(shape))
        if places.dtype != np.int64 or not (flat or full) or np.any(places < 0) or np.any(places >= bounds):
            raise InputRejectedError(f"{where}: its indices are no {count} places inside it")
