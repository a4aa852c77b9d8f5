"""Sequence operators that take the state of earlier steps as an input and give the new one back (opset 27)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from effc.frontends.onnx.operators.base import Node, Operator, Unsupported, Value
from effc.frontends.onnx.operators.values import tensor

__all__ = ["OPERATORS"]


def causal_conv(node: Node, x: Value, weight: Value, bias: Value = None, past: Value = None) -> tuple[Tensor, ...]:
    """Depthwise convolution over the last k - 1 steps and the new ones; those last steps are the next state."""
    x, weight = tensor(x), tensor(weight)
    kept = weight.shape[2] - 1
    before = torch.zeros((x.shape[0], x.shape[1], kept), dtype=x.dtype) if past is None else tensor(past)
    padded = torch.cat((before, x), 2)
    y = F.conv1d(padded, weight, None if bias is None else tensor(bias), groups=x.shape[1])
    if node.get("activation", "none") in ("silu", "swish"):
        y = F.silu(y)
    return y, torch.narrow(padded, 2, padded.shape[2] - kept, kept)


def linear_attention(
    node: Node, q: Value, k: Value, v: Value, past: Value = None, decay: Value = None, beta: Value = None
) -> tuple[Tensor, ...]:
    """A recurrence over the steps in float32: state = decay * state + key x value, output = query . state."""
    query, key, value = tensor(q), tensor(k), tensor(v)
    steps, dtype = query.shape[1], query.dtype
    if not isinstance(steps, int):
        raise Unsupported("a sequence of symbolic length", "fix the length with --input-shape")
    rule, batch = node.get("update_rule", "gated_delta"), query.shape[0]
    heads, groups = int(node.get("q_num_heads")), int(node.get("kv_num_heads"))
    query = query.reshape(batch, steps, heads, -1).float()
    key, value = (t.reshape(batch, steps, groups, -1).float() for t in (key, value))
    size, width = key.shape[3], value.shape[3]
    scale = float(node.get("scale") or 1 / math.sqrt(size))
    state = torch.zeros((batch, groups, size, width)) if past is None else tensor(past).float()
    gates = None if decay is None else tensor(decay).reshape(batch, steps, groups, -1, 1).float().exp()
    rates = None if beta is None else tensor(beta).reshape(batch, steps, -1, 1).float()
    outputs = []
    for t in range(steps):
        new = value[:, t]
        if gates is not None and rule in ("gated", "gated_delta"):
            state = state * gates[:, t]
        if rates is not None and rule in ("delta", "gated_delta"):
            new = rates[:, t] * (new - (state * key[:, t].unsqueeze(-1)).sum(2))
        state = state + key[:, t].unsqueeze(-1) * new.unsqueeze(-2)
        read = state.repeat_interleave(heads // groups, 1) if heads != groups else state
        outputs.append(scale * (query[:, t].unsqueeze(-1) * read).sum(2))
    y = torch.stack(outputs, 1).flatten(2).to(dtype)
    return y, state.to(dtype if past is None else tensor(past).dtype)


OPERATORS = (
    Operator("CausalConvWithState", causal_conv, 27),
    Operator("LinearAttention", linear_attention, 27),
)
