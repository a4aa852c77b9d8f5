"""The products of a program, as an array sees them (`effc.cost.accelerator.product`).

A convolution is one for each of its groups: M are the places of its result, K a window of one group (its channels times its taps), N the
group's output channels. A transposed convolution is the same seen from its inputs: every input meets all taps. Matrix products are taken as
they are; the second factor plays the weights' part, also where it is computed, unless the first one alone is stored. Of a batch all inputs
that meet the same matrix of weights are rows of one product (columns, of W @ x): weights count as often as they are there. Attention is two
products, of which the second one's inputs, the probabilities, are nowhere in the program: nothing is known of their zeros.

Operators without products (additions, pools, activations, normalisation) cost nothing here: in such accelerators a vector unit beside the
array does them while it works.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from effc.cost.accelerator.naming import layer_of, stored_as
from effc.cost.accelerator.operators import MULTIPLYING
from effc.cost.accelerator.product import Product, Shape, Window
from effc.errors import Problem, UnsupportedModelError
from effc.ir import Program, keyword_arguments, source_of

__all__ = ["products_of"]

_aten = torch.ops.aten
_ops = torch.ops.effc


def products_of(program: Program) -> list[Product]:
    """All products of one call, in execution order; a symbolic batch is 1.

    Raises:
        UnsupportedModelError: names all nodes with products that the model has no form for.
    """
    found: list[Product] = []
    problems: list[Problem] = []
    sites = _Sites(program, _stored(program), _shapes(program))
    for node in program.nodes:
        read = _READERS.get(node.target)
        if read is not None:
            found += read(node, sites)
        elif _operator(node) in MULTIPLYING:
            problems.append(Problem(source_of(node), str(node.target), "has products that the accelerator's model has no form for"))
    if problems:
        raise UnsupportedModelError("not all of this network can be put on an accelerator's array", problems)
    return _placed(program, found)


def _placed(program: Program, products: Sequence[Product]) -> list[Product]:
    """The products with `first` and `last` set."""
    places = {one.node for one in products}
    made: set[str] = set()  # values that a product is behind of
    for node in program.nodes:
        if node.name in places or any(one.name in made for one in node.all_input_nodes):
            made.add(node.name)
    read: set[str] = set()  # values that lead to a product
    for node in reversed(program.nodes):
        if any(user.name in places or user.name in read for user in node.users):
            read.add(node.name)
    return [replace(one, first=one.input is not None and one.input not in made, last=one.node not in read) for one in products]


def _operator(node: fx.Node) -> str:
    """`conv2d` for `aten.conv2d.default`."""
    return str(node.target).split(".")[1] if isinstance(node.target, torch._ops.OpOverload) else ""


def _stored(program: Program) -> frozenset[str]:
    """Names of all nodes whose values are stored tensors or made of nothing else."""
    found = set(program.tensors)
    for node in program.nodes:
        if node.all_input_nodes and all(one.name in found for one in node.all_input_nodes):
            found.add(node.name)
    return frozenset(found)


@dataclass(frozen=True)
class _Sites:
    """Of a program: names of stored values, and shapes of all values in a call."""

    program: Program
    stored: frozenset[str]
    shapes: Mapping[str, Shape]

    def shape(self, node: fx.Node) -> Shape:
        return self.shapes[node.name]


def _shapes(program: Program) -> dict[str, Shape]:
    """Of all values, in one call on zeros. (What a graph notes of shapes may be those of the batch that it was traced with.)"""
    found: dict[str, Shape] = {}

    class Shapes(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if isinstance(value, Tensor):
                found[n.name] = tuple(value.shape)
            return value

    zeros = [torch.zeros(value.at_batch(1), dtype=getattr(torch, value.dtype)) for value in program.interface.inputs]
    with torch.no_grad():
        Shapes(program.exported.graph_module).run(*(program.tensors[name] for name in program.tensor_names), *zeros)
    return found


def _listed(value: Any, count: int) -> Shape:
    values = [value] if isinstance(value, int) else list(value)
    return tuple(int(one) for one in (values * count if len(values) == 1 else values))


def _named(node: fx.Node, one: fx.Node, weights: fx.Node, sites: _Sites, **more: Any) -> dict[str, Any]:
    named = {"name": layer_of(sites.program, node, weights), "op": _operator(node), "node": node.name}
    stored = weights.name in sites.stored
    tensor = stored_as(weights) if stored else None
    return {**named, "input": one.name, "shape": sites.shape(one), "stored": stored, "tensor": tensor, **more}


def _convolution(node: fx.Node, sites: _Sites) -> list[Product]:
    arguments = keyword_arguments(node)
    first, weight = (arguments[name] for name in (("x", "w") if "x" in arguments else ("input", "weight")))
    inputs, weights, results = (sites.shape(one) for one in (first, weight, node))
    axes = len(weights) - 2
    batch = inputs[0] if len(inputs) == axes + 2 else 1
    stride, dilation = (_listed(arguments[name], axes) for name in ("stride", "dilation"))
    transposed = bool(arguments.get("transposed", "output_padding" in arguments and "transposed" not in arguments))
    padding = _padding(arguments["padding"], axes, weights[2:], dilation)
    window = Window(inputs[-axes:], results[-axes:], weights[2:], stride, padding, dilation, transposed)
    groups = int(arguments["groups"])
    columns = weights[1] if transposed else weights[0] // groups
    channels = weights[0] // groups if transposed else weights[1]
    taps = math.prod(weights[2:])
    if transposed:
        sizes = {"rows": batch * math.prod(inputs[-axes:]), "depth": channels, "columns": columns * taps}
    else:
        sizes = {"rows": batch * math.prod(results[-axes:]), "depth": channels * taps, "columns": columns}
    sizes |= {"groups": groups, "results": math.prod(results), "channels": columns}
    return [
        Product(
            **_named(node, first, weight, sites, **sizes),
            window=window,
            zero=_name(arguments.get("x_zero_point")),
        )
    ]


def _name(given: Any) -> str | None:
    return given.name if isinstance(given, fx.Node) else None


def _padding(given: Any, axes: int, kernel: Shape, dilation: Shape) -> tuple[tuple[int, int], ...]:
    if given == "valid":
        return ((0, 0),) * axes
    if given == "same":  # torch puts the odd one behind
        return tuple(
            (step * (size - 1) // 2, step * (size - 1) - step * (size - 1) // 2) for size, step in zip(kernel, dilation, strict=True)
        )
    values = _listed(given, axes)
    return tuple(zip(values[:axes], values[-axes:], strict=True))  # effc's own list what is in front of all axes, then what is behind


def _along_last(first: str, second: str) -> Callable[[fx.Node, _Sites], list[Product]]:
    """Where the last axes of both factors meet: `linear`, `inner`."""

    def read(node: fx.Node, sites: _Sites) -> list[Product]:
        arguments = keyword_arguments(node)
        one, weight = arguments[first], arguments[second]
        if one.name in sites.stored and weight.name not in sites.stored:
            one, weight = weight, one
        inputs, weights = sites.shape(one), sites.shape(weight)
        if not (inputs and weights):  # by a single number, which is no sum
            return []
        rows, columns = math.prod(inputs[:-1]), math.prod(weights[:-1])
        sizes = {"groups": 1, "rows": rows, "depth": inputs[-1], "columns": columns, "results": rows * columns, "channels": columns}
        return [Product(**_named(node, one, weight, sites, **sizes))]

    return read


def _together(one: Shape, other: Shape) -> Shape:
    return tuple(torch.broadcast_shapes(one, other))  # type: ignore[no-untyped-call]


def _batched(inputs: Shape, weights: Shape) -> tuple[Shape, int]:
    """Of two factors' axes before the last two: how many matrices of weights there are along each, and how many of the inputs meet each."""
    together = _together(inputs, weights)
    spread = (1,) * (len(together) - len(weights)) + weights
    return spread, math.prod(size for size, apart in zip(together, spread, strict=True) if apart == 1)


def _matrices(first: str, second: str) -> Callable[[fx.Node, _Sites], list[Product]]:
    def read(node: fx.Node, sites: _Sites) -> list[Product]:
        arguments = keyword_arguments(node)
        left, right = arguments[first], arguments[second]
        a, b = sites.shape(left), sites.shape(right)
        if len(b) == 1:  # one column, which all matrices of the other factor meet: they are one
            a, b = (math.prod(a[:-1]), a[-1]), (*b, 1)
        elif len(a) == 1:
            a = (1, *a)
        (m, k), n = a[-2:], b[-1]
        backwards = left.name in sites.stored and right.name not in sites.stored
        moving, staying = (b, a) if backwards else (a, b)
        spread, times = _batched(moving[:-2], staying[:-2])
        groups, zero = math.prod(spread), _name(arguments.get("b_zero_point" if backwards else "a_zero_point"))
        rows, columns = (times * n, m) if backwards else (times * m, n)
        sizes = {"groups": groups, "rows": rows, "depth": k, "columns": columns, "results": groups * rows * columns, "channels": columns}
        inputs, weights = (right, left) if backwards else (left, right)
        return [Product(**_named(node, inputs, weights, sites, **sizes), zero=zero, by_column=backwards, spread=spread)]

    return read


def _attention(node: fx.Node, sites: _Sites) -> list[Product]:
    arguments = keyword_arguments(node)
    query, value = arguments["query"], arguments["value"]
    q, k, v = (sites.shape(arguments[name]) for name in ("query", "key", "value"))
    shared = bool(arguments.get("enable_gqa")) and len(q) > 2  # neighbouring heads of the query have one of the key

    def product(inputs: Shape, matrix: Shape, columns: int, weights: fx.Node, **more: Any) -> Product:
        spread, times = ((), math.prod(inputs[:-2]) // math.prod(matrix[:-2])) if shared else _batched(inputs[:-2], matrix[:-2])
        groups, rows, depth = math.prod(matrix[:-2]), times * inputs[-2], inputs[-1]
        sizes = {"groups": groups, "rows": rows, "depth": depth, "columns": columns}
        sizes |= {"results": groups * rows * columns, "channels": columns}
        return Product(**_named(node, query, weights, sites, **sizes) | more, spread=spread)

    scores = (*(q[:-2] if shared else _together(q[:-2], k[:-2])), q[-2], k[-2])
    probabilities = {"input": None, "shape": scores, "op": "scaled_dot_product_attention (values)"}
    return [product(q, k, k[-2], arguments["key"]), product(scores, v, v[-1], value, **probabilities)]


_READERS: dict[Any, Callable[[fx.Node, _Sites], list[Product]]] = {
    **dict.fromkeys(
        (
            _aten.conv1d.default,
            _aten.conv2d.default,
            _aten.conv3d.default,
            _aten.conv1d.padding,
            _aten.conv2d.padding,
            _aten.conv3d.padding,
            _aten.convolution.default,
            _aten.conv_transpose1d.default,
            _aten.conv_transpose2d.input,
            _aten.conv_transpose3d.input,
            _ops.qlinear_conv.default,
            _ops.conv_integer.default,
        ),
        _convolution,
    ),
    _aten.linear.default: _along_last("input", "weight"),
    _aten.inner.default: _along_last("self", "other"),
    _aten.matmul.default: _matrices("self", "other"),
    _aten.linalg_matmul.default: _matrices("self", "other"),
    _aten.mm.default: _matrices("self", "mat2"),
    _aten.bmm.default: _matrices("self", "mat2"),
    _aten.mv.default: _matrices("self", "vec"),
    _aten.addmv.default: _matrices("mat", "vec"),
    _aten.addmm.default: _matrices("mat1", "mat2"),
    _aten.baddbmm.default: _matrices("batch1", "batch2"),
    _ops.qlinear_matmul.default: _matrices("a", "b"),
    _ops.matmul_integer.default: _matrices("a", "b"),
    _aten.scaled_dot_product_attention.default: _attention,
}
