"""Rotary position embedding: pairs of a vector's elements, turned by an angle that grows with the token's position.

    turned(x)[t, i]       = x[t, i] cos(t f_i) - x[t, i + h] sin(t f_i)
    turned(x)[t, i + h]   = x[t, i + h] cos(t f_i) + x[t, i] sin(t f_i)        h = width / 2, f_i = base^(-i / h), i < h

Su et al., "RoFormer" (arXiv 2104.09864, section 3.2), with the pairs half a width apart as Llama and Gemma lay them out. The product of a
turned query with a turned key depends on the distance of their positions only.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["turned"]


def turned(vectors: tuple[Tensor, ...], base: float) -> tuple[Tensor, ...]:
    """Turn each token's vector.

    Args:
        vectors: tensors of (..., tokens, width), all of the same tokens and width, which is even; the positions are 0, 1, ...
        base: of the frequencies; 10000 is usual.
    """
    tokens, width = vectors[0].shape[-2:]
    half, device = width // 2, vectors[0].device
    frequencies = base ** (-torch.arange(half, dtype=torch.float32, device=device) / half)
    angles = torch.arange(tokens, dtype=torch.float32, device=device).unsqueeze(-1) * frequencies
    cosine, sine = angles.cos().to(vectors[0].dtype), angles.sin().to(vectors[0].dtype)
    halves = [(x[..., :half], x[..., half:]) for x in vectors]
    return tuple(torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1) for first, second in halves)
