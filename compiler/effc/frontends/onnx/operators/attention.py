"""Attention and rotary position embeddings of opset 23 and later."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from effc.frontends.onnx.operators.base import Node, Operator, Unsupported, Value
from effc.frontends.onnx.operators.values import dtype_of, tensor

__all__ = ["OPERATORS"]


def _heads(x: Tensor, count: Any) -> Tensor:
    """(batch, steps, heads * size) -> (batch, heads, steps, size)."""
    if x.ndim == 4:
        return x
    if count is None:
        raise Unsupported("inputs of rank 3 without q_num_heads and kv_num_heads", "the file is malformed; check it with onnx.checker")
    return x.reshape(x.shape[0], x.shape[1], int(count), x.shape[2] // int(count)).transpose(1, 2)


def attention(node: Node, q: Value, k: Value, v: Value, *more: Value) -> Any:
    """softmax(mask(softcap(scale * Q K'))) V; rows without any key to attend to give 0."""
    mask, past_k, past_v, valid = [*more, None, None, None, None][:4]
    query, flat = tensor(q), tensor(q).ndim == 3
    query = _heads(query, node.get("q_num_heads"))
    key, value = _heads(tensor(k), node.get("kv_num_heads")), _heads(tensor(v), node.get("kv_num_heads"))
    if past_k is not None and past_v is not None:
        key, value = torch.cat([tensor(past_k), key], 2), torch.cat([tensor(past_v), value], 2)
    present = (key, value)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scale = math.sqrt(float(node.get("scale") or 1 / math.sqrt(query.shape[3])))
    scores = torch.matmul(query * scale, (key * scale).transpose(2, 3))
    capped = scores
    if node.get("softcap", 0.0):
        capped = torch.tanh(scores / float(node.get("softcap"))) * float(node.get("softcap"))
    past = 0 if past_k is None else past_k.shape[2]
    bias = _bias(node, mask, None if valid is None else tensor(valid), past, query, key.shape[2])
    biased = capped if bias is None else capped + bias
    wide = biased if node.get("softmax_precision") is None else biased.to(dtype_of(int(node.get("softmax_precision"))))
    weights = torch.softmax(wide, -1)
    if bias is not None:
        # counted, not by the maximum: TVM's maximum of nothing but -inf is the lowest finite number
        empty = torch.sum((bias != float("-inf")).to(torch.int32), -1, keepdim=True, dtype=torch.int32) == 0
        weights = torch.where(empty, torch.zeros((), dtype=weights.dtype), weights)
    weights = weights.to(query.dtype)
    y = torch.matmul(weights, value)
    y = y.transpose(1, 2).flatten(2) if flat else y
    if len(node.outputs) == 1:
        return y
    shown = {0: scores, 1: capped, 2: biased, 3: weights}[int(node.get("qk_matmul_output_mode", 0))]
    return (y, *present, shown)[: len(node.outputs)]


def _bias(node: Node, mask: Value, valid: Tensor | None, past: int, query: Tensor, keys: int) -> Tensor | None:
    """What is added to the scores: 0 where a key may be attended to, -inf where not, or the given mask."""
    steps, dtype = query.shape[2], query.dtype
    bias = None if mask is None else _additive(tensor(mask), keys, dtype)
    rows, columns = torch.arange(steps).unsqueeze(1), torch.arange(keys).unsqueeze(0)
    offset: Any = past
    if valid is not None and past == 0:
        offset = (valid.reshape(-1, 1, 1, 1) - steps).to(torch.int64)
    conditions = []
    if node.get("is_causal", 0):
        conditions.append(columns <= rows + offset)
    left, right = int(node.get("left_window_size", -1)), int(node.get("right_window_size", -1))
    if left >= 0:
        conditions.append(rows + offset - columns <= left)
    if right >= 0:
        conditions.append(columns - rows - offset <= right)
    if valid is not None:
        conditions.append(columns < valid.reshape(-1, 1, 1, 1))
    for condition in conditions:
        part = _additive(condition, keys, dtype)
        bias = part if bias is None else bias + part
    return bias


def _additive(mask: Tensor, keys: int, dtype: torch.dtype) -> Tensor:
    if mask.dtype == torch.bool:
        mask = torch.where(mask, torch.zeros((), dtype=dtype), torch.full((), float("-inf"), dtype=dtype))
    missing = keys - mask.shape[-1]
    return torch.constant_pad_nd(mask, [0, missing], float("-inf")) if isinstance(missing, int) and missing > 0 else mask


def rotary_embedding(node: Node, x: Value, cosines: Value, sines: Value, positions: Value = None) -> Tensor:
    """Rotate pairs of a head's elements by angles that grow with the position; the caches hold one row a position."""
    given = tensor(x)
    # (batch, steps, heads, size)
    parts = given.transpose(1, 2) if given.ndim == 4 else given.reshape(*given.shape[:2], int(node.get("num_heads")), -1)
    turned = int(node.get("rotary_embedding_dim", 0)) or parts.shape[3]
    cos, sin = tensor(cosines), tensor(sines)
    if positions is not None:
        index = tensor(positions).to(torch.int64)
        cos, sin = torch.nn.functional.embedding(index, cos), torch.nn.functional.embedding(index, sin)
    cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)
    active = parts[..., :turned]
    if node.get("interleaved", 0):
        first, second = active[..., 0::2], active[..., 1::2]
    else:
        first, second = active.chunk(2, -1)
    real, imaginary = cos * first - sin * second, sin * first + cos * second
    if node.get("interleaved", 0):
        rotated = torch.stack((real, imaginary), -1).flatten(-2)
    else:
        rotated = torch.cat((real, imaginary), -1)
    result = torch.cat((rotated, parts[..., turned:]), -1) if turned < parts.shape[3] else rotated
    return result.transpose(1, 2) if given.ndim == 4 else result.flatten(2)


OPERATORS = (
    Operator("Attention", attention, 23),
    Operator("RotaryEmbedding", rotary_embedding, 23),
)
