"""The Llama step: its caches against whole sequences, the checkpoint's format, and what the generation benchmark counts."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import generation
from benchmarks.decoding import Array, greedy, torch_engine
from benchmarks.harness import data_file
from benchmarks.llama import Sizes, Step, Weights, random_weights, start
from benchmarks.stories import FILE, TOKENS, Whole, read
from effc.data import Dataset
from effc.evaluate import evaluate

SIZES = Sizes(width=16, hidden=12, layers=2, heads=4, key_heads=2, vocabulary=11, positions=6)


def checkpoint(weights: Weights, *, own_head: bool) -> bytes:
    """The weights as llama2.c writes them."""
    sizes = weights.sizes
    vocabulary = -sizes.vocabulary if own_head else sizes.vocabulary
    header = (sizes.width, sizes.hidden, sizes.layers, sizes.heads, sizes.key_heads, vocabulary, sizes.positions)
    order = ("attention_norm", "query", "key", "value", "joined", "network_norm", "gate", "down", "up")
    parts = [weights.embedding, *(getattr(layer, name) for name in order for layer in weights.layers), weights.norm]
    parts += [torch.zeros(2, sizes.positions, sizes.channels // 2), *([weights.head] if own_head else [])]
    return struct.pack("<7i", *header) + b"".join(part.numpy().tobytes() for part in parts)


@pytest.mark.parametrize("own_head", [True, False])
def test_a_checkpoint_is_read_as_it_was_written(own_head: bool, tmp_path: Path) -> None:
    weights = random_weights(SIZES)
    weights = weights if own_head else replace(weights, head=weights.embedding)
    path = tmp_path / "model.bin"
    path.write_bytes(checkpoint(weights, own_head=own_head))
    found = read(path)
    assert found.sizes == SIZES and read(path, 4).sizes.positions == 4
    assert torch.equal(found.embedding, weights.embedding) and torch.equal(found.head, weights.head)
    for one, other in zip(found.layers, weights.layers, strict=True):
        assert all(torch.equal(value, getattr(other, name)) for name, value in vars(one).items())
    for broken in (path.read_bytes()[:-4], path.read_bytes() + bytes(3), bytes(20), bytes(64)):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"model\.bin is no llama2\.c checkpoint"):
            read(path)


def steps(weights: Weights, texts: Tensor, places: Tensor) -> Tensor:
    """Logits (N, T, vocabulary) of texts step by step; sample i stands `places[i]` behind the others' clock."""
    step, caches = Step(weights).eval(), [torch.full_like(cache, 7.0) for cache in start(weights.sizes, len(texts))[2:]]
    found = torch.zeros(*texts.shape, weights.sizes.vocabulary)
    rows = torch.arange(len(texts))
    with torch.no_grad():
        for clock in range(texts.shape[1] + int(places.max())):
            position = (clock - places).clamp(0, texts.shape[1] - 1)
            logits, *caches = step(texts[rows, position][:, None], position, *caches).values()
            found[rows, position] = logits
    return found


def test_steps_with_caches_are_the_whole_sequence() -> None:
    """Also where two sequences stand at different positions, and where caches hold rubbish behind them."""
    weights = random_weights(SIZES, seed=3)
    texts = torch.randint(0, SIZES.vocabulary, (2, SIZES.positions), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = Whole(weights)(texts)
    for places in (torch.tensor([0, 0]), torch.tensor([0, 2])):
        assert torch.allclose(steps(weights, texts, places), expected, atol=1e-4), places
    assert greedy(torch_engine(weights), 5) == greedy(generation.whole_engine(weights), 5)


def test_calibration_holds_steps_as_they_happen() -> None:
    weights = random_weights(SIZES)
    texts = np.random.default_rng(1).integers(0, SIZES.vocabulary, (5, SIZES.positions))
    step = Step(weights).eval()
    data = generation.calibration(lambda *inputs: tuple(step(*inputs).values()), texts, SIZES)
    assert list(data) == ["tokens", "position", "caches_0", "caches_1", "caches_2", "caches_3"]
    assert {len(array) for array in data.values()} == {5 * generation.POSITIONS_EACH}
    with torch.no_grad():
        logits = step(*(torch.from_numpy(array) for array in data.values()))["logits"]
        whole = Whole(weights)(torch.from_numpy(texts))
    for row, position, token in zip(logits, data["position"], data["tokens"][:, 0], strict=True):
        near = (whole[:, position] - row).abs().amax(1) < 1e-4
        assert bool((near & torch.from_numpy(texts[:, position] == token)).any())


def test_the_loss_of_steps_is_that_of_the_whole_model() -> None:
    path, tokens = data_file(FILE), data_file(TOKENS)
    if path is None or tokens is None:
        pytest.skip(f"$EFFC_DATA/{FILE} or {TOKENS} is missing")
    weights = read(path, 32)
    with np.load(tokens) as file:
        ids = file["ids"].astype(np.int64)[:4, :33]
    whole, step = Whole(weights).eval(), Step(weights).eval()

    def run(inputs: dict[str, Array]) -> dict[str, Array]:
        with torch.no_grad():
            return {"logits": whole(torch.from_numpy(inputs["x"])).numpy()}

    score = evaluate(run, Dataset({"x": ids[:, :31]}, ids[:, 1:32]), "perplexity")
    found = generation.loss(lambda *inputs: tuple(step(*inputs).values()), ids[:, :32], weights.sizes)
    assert found == pytest.approx(np.log(score.value), abs=1e-5)
    assert 1.0 < found < 2.5
