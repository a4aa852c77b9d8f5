"""Matrix products and convolutions: those of float64, which TVM's importer would accumulate in float32, and products with a vector."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

__all__ = ["convolution", "matrix", "vector"]


def matrix(node: fx.Node, importer: Any) -> Any:
    """`mm`, `bmm` and `matmul`, accumulated in the type of the result."""
    from tvm import relax

    a, b = (importer.env[argument] for argument in node.args[:2])
    dtype = str(node.meta["val"].dtype).removeprefix("torch.")
    return importer.block_builder.emit(relax.op.matmul(a, b, out_dtype=dtype))


def vector(node: fx.Node, importer: Any) -> Any:
    """`mv`, a matrix times a vector, as one row times the transposed matrix: then results fill the vectors of the processor."""
    from tvm import relax

    matrix, x = (importer.env[argument] for argument in node.args[:2])
    emit, result = importer.block_builder.emit, node.meta["val"]
    row = emit(relax.op.reshape(x, [1, int(x.ty.shape[0])]))
    product = emit(relax.op.matmul(row, emit(relax.op.permute_dims(matrix)), out_dtype=str(result.dtype).removeprefix("torch.")))
    return emit(relax.op.reshape(product, [int(result.shape[0])]))


def convolution(node: fx.Node, importer: Any) -> Any:
    """TVM's own conversion. Raises ValueError for float64."""
    if node.meta["val"].dtype == torch.float64:
        raise ValueError("convolutions of float64 would be computed in float32; convert the model to float32")
    own: Callable[[fx.Node], Any] = importer._convolution
    return own(node)
