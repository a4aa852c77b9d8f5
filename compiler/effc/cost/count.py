"""Counting work from shapes: multiply-accumulates and bytes of ATen and effc nodes.

A multiply-accumulate is one multiplication whose product is added to a sum: convolutions and matrix products have them, everything
else has none. Bytes are what a node reads and writes when nothing stays in a cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from effc.ir import OPS, Cost, Program, keyword_arguments

__all__ = ["Cost", "node_cost", "program_cost"]

_aten = torch.ops.aten
Shape = tuple[int, ...]


def node_cost(node: fx.Node, batch: int = 1) -> Cost:
    """MACs and bytes of one call of a node, with a symbolic batch taken as `batch`. Nodes that are no operator cost nothing."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return Cost(0, 0)
    definition = _effc().get(node.target)
    if definition is not None:
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda one: _concrete(one.meta["val"], batch))
        cost: Cost = definition.cost(*args, **kwargs)
        return cost
    moved = sum(_bytes(one.meta.get("val"), batch) for one in node.all_input_nodes) + _bytes(node.meta.get("val"), batch)
    count = _COUNTS.get(node.target)
    return Cost(count(node, batch) if count else 0, 0 if node.target in _VIEWS else moved)


def program_cost(program: Program, batch: int = 1) -> Cost:
    """The sum over all nodes."""
    costs = [node_cost(node, batch) for node in program.nodes]
    return Cost(sum(cost.macs for cost in costs), sum(cost.bytes for cost in costs))


def _effc() -> Mapping[Any, Any]:
    return {definition.overload: definition for definition in OPS}


def _size(size: Any, batch: int) -> int:
    if isinstance(size, int):
        return size
    expression = size.node.expr
    return int(expression.subs(dict.fromkeys(expression.free_symbols, batch)))


def _shape(value: Any, batch: int) -> Shape:
    return tuple(_size(size, batch) for size in value.shape)


def _bytes(value: Any, batch: int) -> int:
    if isinstance(value, Tensor):
        return math.prod(_shape(value, batch)) * value.element_size()
    return sum(_bytes(one, batch) for one in value) if isinstance(value, (list, tuple)) else 0


def _concrete(value: Any, batch: int) -> Any:
    return torch.empty(_shape(value, batch), dtype=value.dtype, device="meta") if isinstance(value, Tensor) else value


def _operand(node: fx.Node, name: str, batch: int) -> Shape:
    return _shape(keyword_arguments(node)[name].meta["val"], batch)


def _output(node: fx.Node, batch: int) -> int:
    return math.prod(_shape(node.meta["val"], batch))


def _convolution(node: fx.Node, batch: int) -> int:
    arguments = keyword_arguments(node)
    weight = _operand(node, "weight", batch)
    if arguments.get("transposed", False):
        return _transposed(node, batch)
    return _output(node, batch) * math.prod(weight[1:])


def _transposed(node: fx.Node, batch: int) -> int:
    return math.prod(_operand(node, "input", batch)) * math.prod(_operand(node, "weight", batch)[1:])


def _linear(node: fx.Node, batch: int) -> int:
    return _output(node, batch) * _operand(node, "weight", batch)[-1]


def _product(first: str) -> Callable[[fx.Node, int], int]:
    return lambda node, batch: _output(node, batch) * _operand(node, first, batch)[-1]


def _attention(node: fx.Node, batch: int) -> int:
    query, key, value = (_operand(node, name, batch) for name in ("query", "key", "value"))
    return math.prod(query) * key[-2] + math.prod(query[:-1]) * value[-2] * value[-1]


_COUNTS: dict[Any, Callable[[fx.Node, int], int]] = {
    _aten.conv1d.default: _convolution,
    _aten.conv2d.default: _convolution,
    _aten.conv3d.default: _convolution,
    _aten.conv1d.padding: _convolution,
    _aten.conv2d.padding: _convolution,
    _aten.conv3d.padding: _convolution,
    _aten.convolution.default: _convolution,
    _aten.conv_transpose1d.default: _transposed,
    _aten.conv_transpose2d.input: _transposed,
    _aten.conv_transpose3d.input: _transposed,
    _aten.linear.default: _linear,
    _aten.matmul.default: _product("self"),
    _aten.mm.default: _product("self"),
    _aten.bmm.default: _product("self"),
    _aten.mv.default: _product("self"),
    _aten.addmv.default: _product("mat"),
    _aten.inner.default: _product("self"),
    _aten.linalg_matmul.default: _product("self"),
    _aten.addmm.default: _product("mat1"),
    _aten.baddbmm.default: _product("batch1"),
    _aten.scaled_dot_product_attention.default: _attention,
}
_VIEWS = {
    _aten.view.default,
    _aten.reshape.default,
    _aten.flatten.using_ints,
    _aten.unsqueeze.default,
    _aten.squeeze.dim,
    _aten.squeeze.dims,
    _aten.squeeze.default,
}
