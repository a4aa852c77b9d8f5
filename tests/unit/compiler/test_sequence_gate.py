"""The gate on sequences: labels for every position, from the arrays of a compile to its verdict."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from effc.compiler import compile_model


class Bigram(nn.Module):
    """Token ids (N, T) to scores (N, T, 5) that prefer the next id."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Embedding.from_pretrained(torch.eye(5).roll(1, 1) * 3)

    def forward(self, tokens: Tensor) -> Tensor:
        scored: Tensor = self.scores(tokens)
        return scored


def test_the_loss_of_sequences_is_judged(tmp_path: Path) -> None:
    tokens = np.random.default_rng(0).integers(0, 5, (40, 7))
    labels = np.where(np.arange(7) < 6, (tokens + 1) % 5, -100)
    labels[:, 0] = tokens[:, 0]  # one of six counted positions is wrong
    examples = (torch.from_numpy(tokens[:1]),)
    held_out = {"tokens": tokens, "y": labels}
    result = compile_model(Bigram(), tmp_path / "out", eval=held_out, metric="perplexity", max_drop=0.01, example_inputs=examples)
    normaliser = np.log(np.exp(3) + 4)
    assert result.quality is not None
    np.testing.assert_allclose(np.log(result.quality.before), normaliser - 3 * 5 / 6, rtol=1e-6)
    assert (result.quality.samples, result.quality.drop) == (40, 0.0)
    assert compile_model(Bigram(), tmp_path / "top1", eval=held_out, example_inputs=examples).quality.before == 5 / 6  # type: ignore[union-attr]
