"""`aten.pow` of integers, which TVM cannot compile: a small constant exponent becomes a product, everything else is refused."""

from __future__ import annotations

from typing import Any

from torch import fx

__all__ = ["scalar", "tensor"]

_MOST = 64  # factors; beyond it every base but -1, 0 and 1 overflows


def scalar(node: fx.Node, importer: Any) -> Any:
    """A tensor to the power of a number."""
    if not _of_integers(node):
        return importer._pow(node)
    return _product(importer, importer.env[node.args[0]], node.args[1])


def tensor(node: fx.Node, importer: Any) -> Any:
    """A tensor to the power of a tensor."""
    from tvm import relax

    if _of_integers(node):
        return _product(importer, None, None)
    dtype = str(node.meta["val"].dtype).removeprefix("torch.")
    emit = importer.block_builder.emit
    base, exponent = (emit(relax.op.astype(importer.env[argument], dtype)) for argument in node.args[:2])
    return emit(relax.op.power(base, exponent))


def _of_integers(node: fx.Node) -> bool:
    kind = node.meta["val"].dtype
    return not (kind.is_floating_point or kind.is_complex)


def _product(importer: Any, x: Any, exponent: Any) -> Any:
    from tvm import relax

    if not isinstance(exponent, int) or not 0 <= exponent <= _MOST:
        raise ValueError("a power of integers whose exponent is no small constant is not covered; convert to floating point first")
    result = importer.block_builder.emit(relax.op.ones_like(x))
    for _ in range(exponent):
        result = importer.block_builder.emit(relax.op.multiply(result, x))
    return result
