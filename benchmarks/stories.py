"""stories260K, a trained language model of 260 thousand parameters (karpathy/tinyllamas), and the same network over whole sequences.

The file is a llama2.c checkpoint of version 0: seven little-endian int32 (width, hidden, layers, heads, key heads, vocabulary, positions;
a negative vocabulary says that the head has weights of its own), then float32 tensors, each kind for all layers together: embedding,
attention norms, queries, keys, values, joining matrices, network norms, gates (w1), down (w2), up (w3), the last norm, two tables of
rotations that nothing needs, and the head where it is not the embedding.

`Whole` computes all positions of a sequence at once and shares no code with `llama.Step`: it is the step's reference.
"""

from __future__ import annotations

import struct
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.llama import EPSILON, LayerWeights, Sizes, Weights

__all__ = ["FILE", "TOKENS", "Whole", "read"]

FILE = "stories260K/stories260K.bin"  # in the data folder
TOKENS = "stories260K/tinystories_tokens.npz"  # `ids`: sequences of token ids (N, T)

_HEADER = struct.Struct("<7i")


def read(path: Path, positions: int | None = None) -> Weights:
    """The weights of a checkpoint; `positions` limits the sequences, and with them a step's caches.

    Raises:
        ValueError: the file is no such checkpoint, or not of the length that its header says.
    """
    raw = path.read_bytes()
    if len(raw) < _HEADER.size or (len(raw) - _HEADER.size) % 4:
        raise ValueError(f"{path} is no llama2.c checkpoint: {len(raw)} bytes are no header and float32 numbers")
    width, hidden, layers, heads, key_heads, signed, longest = header = _HEADER.unpack_from(raw)
    if min(width, hidden, layers, heads, key_heads, abs(signed), longest) < 1 or width % (2 * heads) or heads % key_heads:
        raise ValueError(f"{path} is no llama2.c checkpoint: its header says {header}")
    sizes = Sizes(width, hidden, layers, heads, key_heads, abs(signed), longest)
    of_keys = key_heads * sizes.channels
    shapes = {
        "embedding": (sizes.vocabulary, width),
        "attention_norm": (layers, width),
        "query": (layers, width, width),
        "key": (layers, of_keys, width),
        "value": (layers, of_keys, width),
        "joined": (layers, width, width),
        "network_norm": (layers, width),
        "gate": (layers, hidden, width),
        "down": (layers, width, hidden),
        "up": (layers, hidden, width),
        "norm": (width,),
        "rotations": (2, longest, sizes.channels // 2),
        **({} if signed > 0 else {"head": (sizes.vocabulary, width)}),
    }
    counts = [torch.Size(shape).numel() for shape in shapes.values()]
    numbers = torch.frombuffer(bytearray(raw), dtype=torch.float32, offset=_HEADER.size)
    if len(numbers) != sum(counts):
        raise ValueError(f"{path} is no llama2.c checkpoint: {len(numbers)} numbers, its header means {sum(counts)}")
    parts = torch.split(numbers, counts)
    stored = {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
    fields = LayerWeights.__dataclass_fields__
    return Weights(
        Sizes(width, hidden, layers, heads, key_heads, sizes.vocabulary, min(longest, positions or longest)),
        stored["embedding"],
        tuple(LayerWeights(**{name: stored[name][i] for name in fields}) for i in range(layers)),
        stored["norm"],
        stored.get("head", stored["embedding"]),
    )


class Whole(nn.Module):
    """Token ids (N, T), int64, to logits (N, T, vocabulary): of each position from those up to it."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.sizes = weights.sizes
        self.embedding = nn.Embedding.from_pretrained(weights.embedding)
        self.blocks = nn.ModuleList(_Block(weights.sizes, layer) for layer in weights.layers)
        self.norm, self.head = nn.Parameter(weights.norm), nn.Parameter(weights.head)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return F.linear(_normed(x, self.norm), self.head)


class _Block(nn.Module):
    def __init__(self, sizes: Sizes, weights: LayerWeights) -> None:
        super().__init__()
        self.sizes = sizes
        self.weights = nn.ParameterDict({name: getattr(weights, name) for name in LayerWeights.__dataclass_fields__})

    def forward(self, x: Tensor) -> Tensor:
        sizes, weights = self.sizes, self.weights
        normed = _normed(x, weights["attention_norm"])
        query, key, value = (F.linear(normed, weights[name]).unflatten(2, (-1, sizes.channels)) for name in ("query", "key", "value"))
        query, key = _rotated(query), _rotated(key)
        key, value = (part.repeat_interleave(sizes.heads // sizes.key_heads, 2) for part in (key, value))
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + F.linear(mixed.transpose(1, 2).flatten(2), weights["joined"])
        normed = _normed(x, weights["network_norm"])
        return x + F.linear(F.silu(F.linear(normed, weights["gate"])) * F.linear(normed, weights["up"]), weights["down"])


def _normed(x: Tensor, weight: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPSILON) * weight


def _rotated(x: Tensor) -> Tensor:
    """(N, T, heads, channels) with each pair of neighbouring channels turned by its position times its frequency (RoFormer, eq. 15)."""
    channels = x.shape[3]
    frequencies = 10_000.0 ** (-torch.arange(0.0, channels, 2.0) / channels)
    angles = (torch.arange(0.0, x.shape[1])[:, None] * frequencies)[:, None]
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * angles.cos() - odd * angles.sin(), even * angles.sin() + odd * angles.cos()], -1).flatten(3)
