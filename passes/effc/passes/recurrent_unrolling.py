"""Recurrent layers as their steps: what `aten.gru`, `lstm`, `rnn_tanh`, `rnn_relu` and the cells mean in products and gates.

    before: gru(x, h0, [W, R, b, c])
    after:  for each step t:  i, g = linear(x[t], W, b), linear(h, R, c)
                              r, u = sigmoid(i_r + g_r), sigmoid(i_u + g_u);  n = tanh(i_n + r * g_n);  h = n + u * (h - n)

Nothing is approximated. A program gets longer by some twenty nodes a step and direction, as lowering would make it anyway. Does not take
active dropout, LSTMs with projections, nor sequences without a batch: `why_not` says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from effc.ir import Edit
from effc.ir.edit import keyword_arguments

__all__ = ["CELLS", "LAYERS", "Product", "first_state", "sizes", "unroll", "weights", "why_not"]

_aten = torch.ops.aten
_GATES = {"gru": 3, "lstm": 4, "rnn_tanh": 1, "rnn_relu": 1}
LAYERS: dict[object, str] = {
    _aten.gru.input: "gru",
    _aten.lstm.input: "lstm",
    _aten.rnn_tanh.input: "rnn_tanh",
    _aten.rnn_relu.input: "rnn_relu",
}
CELLS: dict[object, str] = {
    _aten.gru_cell.default: "gru",
    _aten.lstm_cell.default: "lstm",
    _aten.rnn_tanh_cell.default: "rnn_tanh",
    _aten.rnn_relu_cell.default: "rnn_relu",
}


@dataclass(frozen=True, eq=False)
class Product:
    """The products with one stored matrix, one a step, in the order in which they are computed.

    Attributes:
        nodes: `aten.linear` nodes.
        hidden: whether they multiply what the layer computed itself at the step before, rather than its input.
    """

    nodes: tuple[fx.Node, ...]
    hidden: bool


def first_state(node: fx.Node) -> fx.Node:
    """The hidden state that a layer or a cell starts from."""
    hx = keyword_arguments(node)["hx"]
    found: fx.Node = hx[0] if isinstance(hx, list | tuple) else hx
    return found


def sizes(node: fx.Node) -> tuple[int, int, int]:
    """(steps a call, inputs, hidden values) of a layer or a cell."""
    given = keyword_arguments(node)
    shape, hidden = given["input"].meta["val"].shape, first_state(node).meta["val"].shape[-1]
    return 1 if node.target in CELLS else int(shape[_time(node)]), int(shape[-1]), int(hidden)


def weights(node: fx.Node) -> list[fx.Node]:
    """The matrices and biases of a layer or a cell."""
    given = keyword_arguments(node)
    found = [given[name] for name in ("w_ih", "w_hh", "b_ih", "b_hh")] if node.target in CELLS else list(given["params"])
    return [one for one in found if one is not None]


def why_not(node: fx.Node) -> str:
    """Why a layer cannot be unrolled; empty where it can."""
    given = keyword_arguments(node)
    if given["input"].meta["val"].ndim != (2 if node.target in CELLS else 3):
        return "it takes one sequence, without a batch"
    if node.target in CELLS:
        # torch's shape rule of a cell takes the batch of the example for the only one, and says so to every value of the program.
        size = given["input"].meta["val"].shape[0]
        return "torch took the example's batch for that of the cell: export a layer (nn.GRU) instead" if _is_number(size) else ""
    if not isinstance(given["input"].meta["val"].shape[_time(node)], int):
        return "its sequence is of symbolic length"
    if given["train"] and given["dropout"] > 0:
        return "its dropout is active"
    directions = 2 if given["bidirectional"] else 1
    if len(given["params"]) != directions * given["num_layers"] * (4 if given["has_biases"] else 2):
        return "it projects its hidden state"
    return ""


def _is_number(size: Any) -> bool:
    return isinstance(size, torch.SymInt) and bool(size.node.expr.is_number)


def unroll(edit: Edit, node: fx.Node) -> list[Product]:
    """Replace a layer or a cell by its steps.

    Args:
        edit: the program.
        node: one of its nodes, of `LAYERS` or `CELLS`, for which `why_not` has no reason.

    Returns:
        The products, layer by layer, direction by direction, input before hidden.
    """
    return _unroll_cell(edit, node) if node.target in CELLS else _unroll_layer(edit, node)


def _time(node: fx.Node) -> int:
    given = keyword_arguments(node)
    return 1 if given["batch_first"] else 0


class _Writer:
    """Inserts calls before a node, in order, ."""

    def __init__(self, edit: Edit, node: fx.Node) -> None:
        self._edit, self._node = edit, node

    def __call__(self, target: Callable[..., Any], *args: Any) -> fx.Node:
        return self._edit.call(target, args, like=self._node, before=self._node)

    def part(self, x: fx.Node, first: int, last: int) -> fx.Node:
        return self(_aten.slice.Tensor, x, -1, first, last)


@dataclass(frozen=True)
class _Weights:
    """Of one layer and direction."""

    input: fx.Node
    hidden: fx.Node
    input_bias: fx.Node | None
    hidden_bias: fx.Node | None


State = tuple[fx.Node, fx.Node]  # (h, c); twice h where there is no c


def _step(write: _Writer, kind: str, i: fx.Node, g: fx.Node, state: State) -> State:
    """The new state, from the products with the input (`i`) and with the hidden state (`g`)."""
    h, c = state
    size = int(h.meta["val"].shape[-1])
    if kind == "gru":
        gates = write(_aten.sigmoid.default, write(_aten.add.Tensor, write.part(i, 0, 2 * size), write.part(g, 0, 2 * size)))
        reset, update = write.part(gates, 0, size), write.part(gates, size, 2 * size)
        past = write(_aten.mul.Tensor, reset, write.part(g, 2 * size, 3 * size))
        new = write(_aten.tanh.default, write(_aten.add.Tensor, write.part(i, 2 * size, 3 * size), past))
        h = write(_aten.add.Tensor, new, write(_aten.mul.Tensor, update, write(_aten.sub.Tensor, h, new)))
        return h, h
    both = write(_aten.add.Tensor, i, g)
    if kind == "lstm":
        enter, forget, out = (write(_aten.sigmoid.default, write.part(both, n * size, (n + 1) * size)) for n in (0, 1, 3))
        new = write(_aten.tanh.default, write.part(both, 2 * size, 3 * size))
        c = write(_aten.add.Tensor, write(_aten.mul.Tensor, forget, c), write(_aten.mul.Tensor, enter, new))
        return write(_aten.mul.Tensor, out, write(_aten.tanh.default, c)), c
    h = write(_aten.tanh.default if kind == "rnn_tanh" else _aten.relu.default, both)
    return h, h


def _unroll_cell(edit: Edit, node: fx.Node) -> list[Product]:
    given, write, kind = keyword_arguments(node), _Writer(edit, node), CELLS[node.target]
    hx = given["hx"]
    state: State = (hx[0], hx[1]) if kind == "lstm" else (hx, hx)
    i = write(_aten.linear.default, given["input"], given["w_ih"], given["b_ih"])
    g = write(_aten.linear.default, state[0], given["w_hh"], given["b_hh"])
    h, c = _step(write, kind, i, g, state)
    if kind == "lstm":
        _replace_parts(edit, node, [h, c])
    else:
        edit.replace(node, h)
        edit.erase(node)
    return [Product((i,), hidden=False), Product((g,), hidden=True)]


def _unroll_layer(edit: Edit, node: fx.Node) -> list[Product]:
    given, write, kind = keyword_arguments(node), _Writer(edit, node), LAYERS[node.target]
    time = _time(node)
    x, hx = given["input"], given["hx"]
    firsts: State = (hx[0], hx[1]) if kind == "lstm" else (hx, hx)
    directions = 2 if given["bidirectional"] else 1
    values = [write(_aten.select.int, x, time, t) for t in range(int(x.meta["val"].shape[time]))]
    products: list[Product] = []
    last: list[State] = []
    for layer in range(given["num_layers"]):
        found: list[list[fx.Node]] = []
        for direction in range(directions):
            number = layer * directions + direction
            h, c = (write(_aten.select.int, one, 0, number) for one in firsts)
            order = values[::-1] if direction == 1 else values
            made, state, here = _run(write, kind, order, _weights(given, number), (h, c))
            found.append(made[::-1] if direction == 1 else made)
            last.append(state)
            products += here
        values = found[0] if directions == 1 else [write(_aten.cat.default, list(pair), -1) for pair in zip(*found, strict=True)]
    results = [write(_aten.stack.default, values, time), write(_aten.stack.default, [h for h, _ in last])]
    if kind == "lstm":
        results.append(write(_aten.stack.default, [c for _, c in last]))
    _replace_parts(edit, node, results)
    return products


def _weights(given: dict[str, Any], number: int) -> _Weights:
    params, each = given["params"], 4 if given["has_biases"] else 2
    input_weight, hidden_weight, *biases = params[number * each : (number + 1) * each]
    input_bias, hidden_bias = biases or (None, None)
    return _Weights(input_weight, hidden_weight, input_bias, hidden_bias)


def _run(write: _Writer, kind: str, order: list[fx.Node], weights: _Weights, state: State) -> tuple[list[fx.Node], State, list[Product]]:
    """One layer in one direction: its results, its last state and its products."""
    inputs, hidden, made = [], [], []
    for x in order:
        inputs.append(write(_aten.linear.default, x, weights.input, weights.input_bias))
        hidden.append(write(_aten.linear.default, state[0], weights.hidden, weights.hidden_bias))
        state = _step(write, kind, inputs[-1], hidden[-1], state)
        made.append(state[0])
    return made, state, [Product(tuple(inputs), hidden=False), Product(tuple(hidden), hidden=True)]


def _replace_parts(edit: Edit, node: fx.Node, results: list[fx.Node]) -> None:
    """Let the readers of an operator with several results read these; the operator goes."""
    for user in list(node.users):
        edit.replace(user, results[user.args[1]])  # type: ignore[index]
        edit.erase(user)
    edit.erase(node)  # dead code elimination keeps it: torch says that its dropout is random
