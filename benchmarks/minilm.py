"""A sentence encoder in the shape of MiniLM-L6-H384 (a BERT with six narrow layers), with random weights.

Written as a plain module because the benchmark needs the shape of the computation, not trained weights or the package that holds them:
token, position and type embeddings under one layer norm, then per layer attention and a GELU network, each with a residual and a layer norm
behind it (post-norm). Every token is attended to and of the first type, as in a batch of full-length single sentences.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Encoder", "minilm"]

VOCABULARY = 30_522
POSITIONS = 512
TYPES = 2
WIDTH = 384
HEADS = 12
HIDDEN = 1536
LAYERS = 6
EPSILON = 1e-12  # BERT's


class Layer(nn.Module):
    """Self-attention and a two-layer network, each added to its input and normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.joined = nn.Linear(WIDTH, WIDTH)
        self.attended = nn.LayerNorm(WIDTH, eps=EPSILON)
        self.up, self.down = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)
        self.settled = nn.LayerNorm(WIDTH, eps=EPSILON)

    def forward(self, states: Tensor) -> Tensor:
        query, key, value = (self._by_head(part(states)) for part in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        states = self.attended(states + self.joined(mixed))
        settled: Tensor = self.settled(states + self.down(F.gelu(self.up(states))))
        return settled

    def _by_head(self, states: Tensor) -> Tensor:
        """(batch, tokens, width) as (batch, heads, tokens, width of a head)."""
        return states.unflatten(2, (HEADS, WIDTH // HEADS)).transpose(1, 2)


class Encoder(nn.Module):
    """Token ids (batch, tokens), int64, to the last layer's states (batch, tokens, width)."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.positions, self.types = (nn.Embedding(count, WIDTH) for count in (VOCABULARY, POSITIONS, TYPES))
        self.embedded = nn.LayerNorm(WIDTH, eps=EPSILON)
        self.layers = nn.Sequential(*(Layer() for _ in range(LAYERS)))

    def forward(self, input_ids: Tensor) -> Tensor:
        places = torch.arange(input_ids.shape[1])
        embedded = self.words(input_ids) + self.positions(places) + self.types(torch.zeros_like(input_ids))
        encoded: Tensor = self.layers(self.embedded(embedded))
        return encoded


def minilm() -> Encoder:
    """The encoder in eval mode with BERT's initial weights (normal, 0.02; seed 0) and biases that are not zero."""
    encoder, generator = Encoder().eval(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if name.endswith("weight") and parameter.ndim == 1:  # layer norms
                parameter.uniform_(0.5, 1.5, generator=generator)
            else:
                parameter.normal_(0.0, 0.02, generator=generator)
    return encoder
