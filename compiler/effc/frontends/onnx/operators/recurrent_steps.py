"""Recurrent layers step by step, as the ONNX specification writes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from effc.frontends.onnx.operators.base import Unsupported

__all__ = ["Layer", "unrolled"]

Activation = Callable[[Tensor], Tensor]
State = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Layer:
    """The attributes of an RNN, GRU or LSTM node."""

    kind: str
    activations: Sequence[str]
    alphas: Sequence[float]
    betas: Sequence[float]
    clip: float | None
    input_forget: bool
    linear_before_reset: bool
    reverse: bool


_PLAIN: dict[str, Activation] = {
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "Relu": torch.relu,
    "Softsign": F.softsign,
    "Softplus": lambda x: torch.relu(x) + torch.log1p(torch.exp(-torch.abs(x))),
}
_WITH_CONSTANTS: dict[str, tuple[tuple[float, ...], Callable[..., Tensor]]] = {
    "Affine": ((1.0, 0.0), lambda x, a, b: a * x + b),
    "LeakyRelu": ((0.01,), F.leaky_relu),
    "ThresholdedRelu": ((1.0,), lambda x, a: torch.where(x > a, x, torch.zeros_like(x))),
    "ScaledTanh": ((1.0, 1.0), lambda x, a, b: a * torch.tanh(b * x)),
    "HardSigmoid": ((0.2, 0.5), lambda x, a, b: torch.clamp(a * x + b, 0.0, 1.0)),
    "Elu": ((1.0,), F.elu),
}


def _activations(layer: Layer) -> list[Activation]:
    """One function a name; alphas and betas belong in order to those activations that take one."""
    alphas, betas = list(layer.alphas), list(layer.betas)
    clip: float | None = layer.clip
    found: list[Activation] = []
    for name in layer.activations:
        if name in _PLAIN:
            function = _PLAIN[name]
        elif name in _WITH_CONSTANTS:
            defaults, form = _WITH_CONSTANTS[name]
            values = [alphas.pop(0) if alphas else defaults[0]]
            if len(defaults) > 1:
                values.append(betas.pop(0) if betas else defaults[1])
            function = _bind(form, values)
        else:
            raise Unsupported(f"activation {name}", f"known are {', '.join(sorted({*_PLAIN, *_WITH_CONSTANTS}))}")
        found.append(function if clip is None else _clipped(function, clip))
    return found


def _bind(form: Callable[..., Tensor], values: list[float]) -> Activation:
    return lambda x: form(x, *values)


def _clipped(function: Activation, bound: float) -> Activation:
    return lambda x: function(torch.clamp(x, -bound, bound))


def unrolled(
    layer: Layer, x: Tensor, w: Tensor, r: Tensor, b: Tensor, h: Tensor, c: Tensor, peepholes: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs (steps, directions, batch, hidden) and the last states (directions, batch, hidden)."""
    functions = _activations(layer)
    directions = w.shape[0]
    each = len(functions) // directions
    outputs, last_h, last_c = [], [], []
    for d in range(directions):
        p = None if peepholes is None else peepholes[d]
        step = _STEPS[layer.kind](layer, functions[d * each : (d + 1) * each], w[d], r[d], b[d], p)
        state, found = (h[d], c[d]), [torch.empty(0)] * x.shape[0]
        times = range(x.shape[0] - 1, -1, -1) if layer.reverse or d == 1 else range(x.shape[0])
        for t in times:
            new = step(x[t], state)
            if lengths is None:
                state, found[t] = new, new[0]
            else:  # past its end a sequence keeps its state and gives zeros
                inside = (lengths > t).unsqueeze(1)
                state = (torch.where(inside, new[0], state[0]), torch.where(inside, new[1], state[1]))
                found[t] = torch.where(inside, new[0], torch.zeros_like(new[0]))
        outputs.append(torch.stack(found))
        last_h.append(state[0])
        last_c.append(state[1])
    return torch.stack(outputs, 1), torch.stack(last_h), torch.stack(last_c)


Step = Callable[[Tensor, State], State]


def _rnn(layer: Layer, f: Sequence[Activation], w: Tensor, r: Tensor, b: Tensor, p: Tensor | None) -> Step:
    input_bias, hidden_bias = b.chunk(2, 0)

    def step(x: Tensor, state: State) -> State:
        return f[0](F.linear(x, w, input_bias) + F.linear(state[0], r, hidden_bias)), state[1]

    return step


def _gru(layer: Layer, f: Sequence[Activation], w: Tensor, r: Tensor, b: Tensor, p: Tensor | None) -> Step:
    input_bias, hidden_bias = b.chunk(2, 0)
    rz, rr, rh = r.chunk(3, 0)
    bz, br, bh = hidden_bias.chunk(3, 0)

    def step(x: Tensor, state: State) -> State:
        h = state[0]
        xz, xr, xh = F.linear(x, w, input_bias).chunk(3, -1)
        update = f[0](xz + F.linear(h, rz, bz))
        reset = f[0](xr + F.linear(h, rr, br))
        past = reset * F.linear(h, rh, bh) if layer.linear_before_reset else F.linear(reset * h, rh, bh)
        return (1 - update) * f[1](xh + past) + update * h, state[1]

    return step


def _lstm(layer: Layer, f: Sequence[Activation], w: Tensor, r: Tensor, b: Tensor, p: Tensor | None) -> Step:
    input_bias, hidden_bias = b.chunk(2, 0)
    pi, po, pf = (None, None, None) if p is None else p.chunk(3, 0)

    def step(x: Tensor, state: State) -> State:
        h, c = state
        gate_i, gate_o, gate_f, gate_c = (F.linear(x, w, input_bias) + F.linear(h, r, hidden_bias)).chunk(4, -1)
        i = f[0](gate_i if pi is None else gate_i + pi * c)
        forget = 1 - i if layer.input_forget else f[0](gate_f if pf is None else gate_f + pf * c)
        c = forget * c + i * f[1](gate_c)
        o = f[0](gate_o if po is None else gate_o + po * c)
        return o * f[2](c), c

    return step


_STEPS = {"RNN": _rnn, "GRU": _gru, "LSTM": _lstm}
