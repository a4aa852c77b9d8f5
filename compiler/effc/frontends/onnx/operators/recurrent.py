"""RNN, GRU and LSTM layers.

What torch's own layers compute becomes one `rnn_tanh`, `rnn_relu`, `gru` or `lstm` node. The rest (peepholes, other activations, clipping,
sequences of different lengths, GRU's gate before the product) is unrolled step by step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from effc.frontends.onnx.operators.base import Node, Operator, Unsupported, Value
from effc.frontends.onnx.operators.recurrent_steps import Layer, unrolled
from effc.frontends.onnx.operators.values import is_constant, tensor

__all__ = ["OPERATORS"]

_DEFAULTS = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}
_TORCH_GATES = {"RNN": (0,), "GRU": (1, 0, 2), "LSTM": (0, 2, 3, 1)}  # ONNX's zrh and iofc in torch's order rzn and ifgo


def _directions(node: Node) -> int:
    return 2 if node.get("direction", "forward") == "bidirectional" else 1


def _activations(node: Node) -> list[str]:
    return [str(name) for name in node.get("activations", _DEFAULTS[node.op] * _directions(node))]


def _lengths(value: Value, steps: int) -> Tensor | None:
    """Sequence lengths, None where all are whole."""
    if value is None or (is_constant(value) and bool(np.all(np.asarray(value) == steps))):
        return None
    return tensor(value)


def _layer(kind: str) -> Callable[..., tuple[Tensor, ...]]:
    def call(node: Node, x: Value, w: Value, r: Value, *more: Value) -> tuple[Tensor, ...]:
        bias, lengths, h0, c0, peepholes = [*more, None, None, None, None, None][:5]
        x, w, r = tensor(x), tensor(w), tensor(r)
        batch_first = bool(node.get("layout", 0))
        x = x.transpose(0, 1) if batch_first else x
        states = [None if s is None else tensor(s).transpose(0, 1) if batch_first else tensor(s) for s in (h0, c0)]
        if not isinstance(x.shape[0], int):
            raise Unsupported("a sequence of symbolic length", "fix the length with --input-shape")
        directions = _directions(node)
        hidden = r.shape[-1]
        zero = torch.zeros((directions, x.shape[1], hidden), dtype=x.dtype)
        h, c = (zero if s is None else s for s in states)
        b = torch.zeros((directions, 2 * w.shape[1]), dtype=x.dtype) if bias is None else tensor(bias)
        layer = Layer(
            kind=kind,
            activations=_activations(node),
            alphas=[float(a) for a in node.get("activation_alpha", [])],
            betas=[float(a) for a in node.get("activation_beta", [])],
            clip=node.get("clip"),
            input_forget=bool(node.get("input_forget", 0)),
            linear_before_reset=bool(node.get("linear_before_reset", 0)),
            reverse=node.get("direction", "forward") == "reverse",
        )
        which = _lengths(lengths, x.shape[0])
        plain = which is None and peepholes is None and layer.clip is None and not layer.input_forget
        if plain and _torch_has(kind, layer):
            y, h, c = _by_torch(layer, x, w, r, b, h, c)
        else:
            p = None if peepholes is None else tensor(peepholes)
            y, h, c = unrolled(layer, x, w, r, b, h, c, p, which)
        if batch_first:
            y, h, c = y.permute(2, 0, 1, 3), h.transpose(0, 1), c.transpose(0, 1)
        found = (y, h, c) if kind == "LSTM" else (y, h)
        return found[: len(node.outputs)]

    return call


def _torch_has(kind: str, layer: Layer) -> bool:
    if kind == "RNN":
        return set(layer.activations) in ({"Tanh"}, {"Relu"})
    plain = layer.activations == _DEFAULTS[kind] * (len(layer.activations) // len(_DEFAULTS[kind]))
    return plain and (kind == "LSTM" or layer.linear_before_reset)


def _by_torch(layer: Layer, x: Tensor, w: Tensor, r: Tensor, b: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    directions, hidden = r.shape[0], r.shape[-1]

    def in_torch_order(value: Tensor) -> Tensor:
        parts = torch.split(value, hidden, 0)
        return torch.cat([parts[i] for i in _TORCH_GATES[layer.kind]], 0)

    weights: list[Tensor] = []
    for d in range(directions):
        input_bias, hidden_bias = b[d].chunk(2, 0)
        weights += [in_torch_order(part) for part in (w[d], r[d], input_bias, hidden_bias)]
    x = torch.flip(x, (0,)) if layer.reverse else x
    options: tuple[Any, ...] = (weights, True, 1, 0.0, False, directions == 2, False)
    if layer.kind == "LSTM":
        y, h, c = torch.lstm(x, (h, c), *options)
    elif layer.kind == "GRU":
        y, h = torch.gru(x, h, *options)
    else:
        y, h = (torch.rnn_tanh if layer.activations[0] == "Tanh" else torch.rnn_relu)(x, h, *options)
    y = torch.flip(y, (0,)) if layer.reverse else y
    return y.reshape(*x.shape[:2], directions, hidden).transpose(1, 2), h, c


OPERATORS = (
    Operator("GRU", _layer("GRU"), 7),
    Operator("LSTM", _layer("LSTM"), 7),
    Operator("RNN", _layer("RNN"), 7),
)
