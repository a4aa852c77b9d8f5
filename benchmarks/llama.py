"""A Llama of any size that decodes one token a call: a functional step whose key and value caches come in and go out.

Written so that it lowers to few kernels. Everything but the caches has two axes, so that each linear layer is a product with a vector. A
head's channels are stored evens first: the rotation of pairs (Su et al. 2021, RoFormer, arXiv 2104.09864, eq. 34) then turns two halves,
and scores do not change, as queries and keys are reordered alike. The queries that share a key head stand side by side as the rows of one
product (grouped heads: Ainslie et al. 2023, arXiv 2305.13245), so keys are read once and never repeated.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["EPSILON", "LayerWeights", "Sizes", "Step", "Weights", "random_weights", "start"]

EPSILON = 1e-5  # of the normalisations
_BASE = 10_000.0  # of the rotations' wavelengths


@dataclass(frozen=True)
class Sizes:
    """How large a network is.

    Attributes:
        width: of the hidden state.
        hidden: of the two-layer networks.
        layers: their number.
        heads, key_heads: of queries, and of keys and values; `key_heads` divides `heads`.
        vocabulary: token ids.
        positions: the longest sequence.
    """

    width: int
    hidden: int
    layers: int
    heads: int
    key_heads: int
    vocabulary: int
    positions: int

    @property
    def channels(self) -> int:
        """Of one head."""
        return self.width // self.heads


@dataclass(frozen=True)
class LayerWeights:
    """One layer; matrices are (outputs, inputs), as in `nn.Linear`. Channels of a head that rotate together are neighbours."""

    attention_norm: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    joined: Tensor
    network_norm: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor


@dataclass(frozen=True)
class Weights:
    """A whole network, float32.

    Attributes:
        sizes: what the shapes follow from.
        embedding: (vocabulary, width).
        layers: in order.
        norm: (width,), before the head.
        head: (vocabulary, width); may be the embedding itself.
    """

    sizes: Sizes
    embedding: Tensor
    layers: tuple[LayerWeights, ...]
    norm: Tensor
    head: Tensor


class Layer(nn.Module):
    """Attention over a cache and a gated network, each added to the hidden state."""

    def __init__(self, sizes: Sizes, weights: LayerWeights) -> None:
        super().__init__()
        self.sizes = sizes
        self.attention_norm, self.network_norm = nn.Parameter(weights.attention_norm), nn.Parameter(weights.network_norm)
        self.query = _linear(_halves(weights.query, sizes.channels))
        self.key = _linear(_halves(weights.key, sizes.channels))
        self.value, self.joined = _linear(weights.value), _linear(weights.joined)
        self.gate, self.up, self.down = _linear(weights.gate), _linear(weights.up), _linear(weights.down)

    def forward(
        self, x: Tensor, turn: tuple[Tensor, Tensor], here: Tensor, visible: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The hidden state (N, width) behind this layer, and its new caches.

        Args:
            x: the hidden state before it.
            turn: cosines and signed sines of the position, each (N, 1, 2, channels / 2).
            here, visible: (N, 1, positions, 1) and (N, 1, 1, positions), truth values: where the token stands, and what it may look at.
            keys, values: (N, key heads, positions, channels).
        """
        sizes = self.sizes
        normed = F.rms_norm(x, (sizes.width,), self.attention_norm, EPSILON)
        query = _turned(self.query(normed), sizes.heads, turn).unflatten(1, (sizes.key_heads, sizes.heads // sizes.key_heads))
        key = _turned(self.key(normed), sizes.key_heads, turn).unsqueeze(2)
        keys = torch.where(here, key, keys)
        values = torch.where(here, self.value(normed).unflatten(1, (sizes.key_heads, 1, sizes.channels)), values)
        x = x + self.joined(F.scaled_dot_product_attention(query, keys, values, visible).flatten(1))
        normed = F.rms_norm(x, (sizes.width,), self.network_norm, EPSILON)
        return x + self.down(F.silu(self.gate(normed)) * self.up(normed)), keys, values


class Step(nn.Module):
    """One token of N sequences.

    forward(tokens, position, *caches):
        tokens: (N, 1) int64, one for each sequence.
        position: (N,) int64, where in its sequence each token stands, from 0.
        caches: keys and values of each layer in turn, (N, key heads, positions, channels) float32. What they hold from `position` on is not
            looked at, so a sequence may begin with any.

    Returns:
        `logits` (N, vocabulary), then the new caches, which also hold this token: `caches_0_next`, ...
    """

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.sizes = weights.sizes
        self.embedding = nn.Embedding.from_pretrained(weights.embedding)
        self.layers = nn.ModuleList(Layer(self.sizes, layer) for layer in weights.layers)
        self.norm, self.head = nn.Parameter(weights.norm), _linear(weights.head)
        wave = _BASE ** (-torch.arange(0, self.sizes.channels, 2, dtype=torch.float64) / self.sizes.channels)
        angles = torch.outer(torch.arange(self.sizes.positions, dtype=torch.float64), wave).float()
        cosines, sines = angles.cos(), angles.sin()
        self.register_buffer("cosines", torch.stack([cosines, cosines], 1))
        self.register_buffer("sines", torch.stack([-sines, sines], 1))
        self.register_buffer("places", torch.arange(self.sizes.positions))

    @property
    def states(self) -> dict[str, str]:
        """What `compile_model` takes as `states`."""
        return {f"caches_{i}": f"caches_{i}_next" for i in range(2 * self.sizes.layers)}

    def forward(self, tokens: Tensor, position: Tensor, *caches: Tensor) -> dict[str, Tensor]:
        assert isinstance(self.cosines, Tensor) and isinstance(self.sines, Tensor) and isinstance(self.places, Tensor)
        x = self.embedding(tokens.flatten())
        turn = self.cosines[position].unsqueeze(1), self.sines[position].unsqueeze(1)
        here = self.places.view(1, 1, -1, 1) == position.view(-1, 1, 1, 1)
        visible = self.places.view(1, 1, 1, -1) <= position.view(-1, 1, 1, 1)
        kept: dict[str, Tensor] = {}
        for i, layer in enumerate(self.layers):
            x, keys, values = layer(x, turn, here, visible, caches[2 * i], caches[2 * i + 1])
            kept |= {f"caches_{2 * i}_next": keys, f"caches_{2 * i + 1}_next": values}
        return {"logits": self.head(F.rms_norm(x, (self.sizes.width,), self.norm, EPSILON)), **kept}


def start(sizes: Sizes, batch: int = 1) -> tuple[Tensor, ...]:
    """Inputs of a `Step` at the beginning of N sequences: token 1, position 0, empty caches."""
    shape = (batch, sizes.key_heads, sizes.positions, sizes.channels)
    caches = [torch.zeros(shape) for _ in range(2 * sizes.layers)]
    return torch.ones(batch, 1, dtype=torch.int64), torch.zeros(batch, dtype=torch.int64), *caches


def random_weights(sizes: Sizes, seed: int = 0) -> Weights:
    """Normal weights that keep the hidden state's scale, and scales of normalisations that are not one."""
    generator = torch.Generator().manual_seed(seed)

    def matrix(outputs: int, inputs: int) -> Tensor:
        return torch.empty(outputs, inputs).normal_(0.0, inputs**-0.5, generator=generator)

    def scale() -> Tensor:
        return torch.empty(sizes.width).uniform_(0.5, 1.5, generator=generator)

    width, of_keys = sizes.width, sizes.key_heads * sizes.channels
    layers = [
        LayerWeights(
            attention_norm=scale(),
            query=matrix(width, width),
            key=matrix(of_keys, width),
            value=matrix(of_keys, width),
            joined=matrix(width, width),
            network_norm=scale(),
            gate=matrix(sizes.hidden, width),
            up=matrix(sizes.hidden, width),
            down=matrix(width, sizes.hidden),
        )
        for _ in range(sizes.layers)
    ]
    embedding = torch.empty(sizes.vocabulary, width).normal_(0.0, 1.0, generator=generator)
    return Weights(sizes, embedding, tuple(layers), scale(), matrix(sizes.vocabulary, width))


def _linear(weight: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight)
    return linear


def _halves(weight: Tensor, channels: int) -> Tensor:
    """The rows of each head reordered: even channels, then odd ones."""
    pairs = weight.view(-1, channels // 2, 2, weight.shape[1])
    return pairs.transpose(1, 2).reshape(weight.shape)


def _turned(x: Tensor, heads: int, turn: tuple[Tensor, Tensor]) -> Tensor:
    """(N, heads * channels) rotated by the position, as (N, heads, channels)."""
    cosines, sines = turn
    halves = x.unflatten(1, (heads, 2, -1))
    turned: Tensor = halves * cosines + halves.flip(2) * sines
    return turned.flatten(2)
