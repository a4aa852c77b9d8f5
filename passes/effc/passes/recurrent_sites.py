"""Where a program runs a recurrent layer, and which of these places can work on differences.

Recurrent layers arrive in two forms: as one ATen node (`aten.gru`, `lstm`, `rnn_tanh`, `rnn_relu`, or a cell), and step by step, as
the ONNX importer writes what torch's layers do not compute (a GRU whose reset gate comes before the product, peepholes, clipping). The
steps of one ONNX node have one source name. Its products are recurrent where a stored matrix meets a state of the program, or where it is
used again on what came out of its last use.

A layer whose hidden state comes from a state of the program keeps its differences from call to call; any other one only from step to
step inside a call, and there is nothing to gain where that is a single step.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from effc.ir import Program, source_of
from effc.passes.recurrent_unrolling import CELLS, LAYERS, Product, first_state, sizes, weights, why_not

__all__ = ["RecurrentSite", "recurrent_sites"]

_aten = torch.ops.aten
_CARRIERS = frozenset(
    {
        _aten.select.int,
        _aten.slice.Tensor,
        _aten.squeeze.default,
        _aten.squeeze.dim,
        _aten.squeeze.dims,
        _aten.unsqueeze.default,
        _aten.reshape.default,
        _aten.view.default,
        _aten.flatten.using_ints,
        _aten.transpose.int,
        _aten.permute.default,
        _aten.contiguous.default,
        _aten.clone.default,
        _aten.alias.default,
    }
)


@dataclass(frozen=True, eq=False)
class RecurrentSite:
    """One recurrent layer.

    Attributes:
        node: the layer or cell; the first product of one that arrived step by step.
        products: of one that arrived step by step; empty for a layer or cell, whose products `unroll` makes.
        streamed: whether its hidden state goes from call to call.
        why_not: why it stays dense; empty where it need not.
    """

    node: fx.Node
    products: tuple[Product, ...]
    streamed: bool
    why_not: str = ""

    @property
    def label(self) -> str:
        """The user's name."""
        return source_of(self.node)

    @property
    def name(self) -> str:
        """The node's name, by which sites are told apart."""
        return str(self.node.name)


def recurrent_sites(program: Program) -> list[RecurrentSite]:
    """All recurrent layers in execution order, those that have to stay dense included."""
    inputs = program.input_nodes
    states = {inputs[state.input] for state in program.interface.states if not state.resident}
    fixed = _stored(program)
    found = [_layer(node, states, fixed) for node in program.nodes if node.target in LAYERS or node.target in CELLS]
    found += _written_out(program, states, fixed)
    order = {node: place for place, node in enumerate(program.nodes)}
    return sorted(found, key=lambda site: order[site.node])


def _layer(node: fx.Node, states: Collection[fx.Node], fixed: Collection[object]) -> RecurrentSite:
    streamed = _carried(first_state(node)) in states
    why = why_not(node)
    if not why and not streamed and sizes(node)[0] == 1:
        why = "it makes one step a call from a hidden state that is no state of the program: declare it (--state h=h_next)"
    if not why and not all(weight in fixed for weight in weights(node)):
        why = "its weights are computed from an input"
    if not why and first_state(node).meta["val"].dtype != torch.float32:
        why = "it is not float32"
    return RecurrentSite(node, (), streamed, why)


def _carried(value: object) -> object:
    """What a value is a part or another view of."""
    while isinstance(value, fx.Node) and value.target in _CARRIERS:
        value = value.args[0]
    return value


def _written_out(program: Program, states: Collection[fx.Node], fixed: Collection[object]) -> list[RecurrentSite]:
    """The recurrent layers that arrived step by step."""
    by_source: dict[str, dict[object, list[fx.Node]]] = {}
    for node in program.nodes:
        if node.target == _aten.linear.default and all(one in fixed for one in node.all_input_nodes[1:]) and _is_row(node.args[0]):
            by_source.setdefault(source_of(node), {}).setdefault(node.args[1], []).append(node)
    found = []
    for uses in by_source.values():
        hidden = {weight: _reads_state(nodes[0], states) or _again(nodes) for weight, nodes in uses.items()}
        if any(hidden.values()):
            products = tuple(Product(tuple(nodes), hidden[weight]) for weight, nodes in uses.items())
            streamed = any(_reads_state(nodes[0], states) for nodes in uses.values())
            found.append(RecurrentSite(products[0].nodes[0], products, streamed))
    return found


def _stored(program: Program) -> set[object]:
    """The nodes whose values depend on no input."""
    tensors = program.tensors
    fixed: set[object] = {node for node in program.graph.nodes if node.op == "placeholder" and node.name in tensors}
    for node in program.nodes:
        if node.all_input_nodes and all(one in fixed for one in node.all_input_nodes):
            fixed.add(node)
    return fixed


def _is_row(value: object) -> bool:
    held = value.meta.get("val") if isinstance(value, fx.Node) else None
    return isinstance(held, Tensor) and held.ndim == 2 and held.dtype == torch.float32


def _reads_state(node: fx.Node, states: Collection[fx.Node]) -> bool:
    """Whether a product's operand is a state, or a state times a gate."""
    value = node.args[0]
    factors = value.args if isinstance(value, fx.Node) and value.target == _aten.mul.Tensor else (value,)
    return any(_carried(factor) in states for factor in factors)


def _again(nodes: list[fx.Node]) -> bool:
    """Whether a product's operand comes from the result of the one before."""
    if len(nodes) < 2:
        return False
    first, waiting, seen = nodes[0], [nodes[1]], set()
    while waiting:
        node = waiting.pop()
        if node is first:
            return True
        if node not in seen:
            seen.add(node)
            waiting += node.all_input_nodes
    return False
