"""Metrics of outputs (N, T, C): the value of a sample is the mean over its counted positions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from effc.data import Dataset
from effc.errors import DataError
from effc.evaluate import Score, compare, evaluate, samples_needed

# Two samples of three positions with two classes; the logit of class 1 is 0, so class 0 has the probability 1 / (1 + exp(-logit)).
FIRST = np.array([[1.0, -1.0, 2.0], [0.0, 3.0, -2.0]])
LOGITS = np.stack([FIRST, np.zeros_like(FIRST)], 2).astype(np.float32)
INPUTS = {"x": np.arange(2)[:, None]}
LABELS = np.array([[0, 0, 1], [0, 0, 1]])
UNEVEN = np.array([[0, -100, 1], [-100, -100, 1]])


def running(outputs: np.ndarray[Any, Any]) -> Any:
    return lambda inputs: {"y": outputs[inputs["x"][:, 0]]}


def nats(logit: float, label: int) -> float:
    return math.log1p(math.exp(-logit if label == 0 else logit))


def test_a_sample_is_the_mean_of_its_positions() -> None:
    top1 = evaluate(running(LOGITS), Dataset(INPUTS, LABELS), "top1", batch_size=1)
    assert top1.samples.tolist() == [1 / 3, 1.0]  # equal scores choose the first class
    assert top1.choices is not None and top1.choices.tolist() == [[0, 1, 0], [0, 0, 1]]
    loss = evaluate(running(LOGITS), Dataset(INPUTS, LABELS), "perplexity")
    expected = [(nats(1, 0) + nats(-1, 0) + nats(2, 1)) / 3, (nats(0, 0) + nats(3, 0) + nats(-2, 1)) / 3]
    assert loss.samples == pytest.approx(expected, rel=1e-6)
    assert loss.value == pytest.approx(math.exp(sum(expected) / 2), rel=1e-6)


def test_positions_without_a_label_are_not_counted() -> None:
    data = Dataset(INPUTS, UNEVEN)
    top1 = evaluate(running(LOGITS), data, "top1")
    assert top1.samples.tolist() == [0.5, 1.0]
    assert top1.choices is not None and top1.choices.tolist() == [[0, -1, 0], [-1, -1, 1]]
    loss = evaluate(running(LOGITS), data, "perplexity")
    assert loss.samples == pytest.approx([(nats(1, 0) + nats(2, 1)) / 2, nats(-2, 1)], rel=1e-6)
    other = LOGITS.copy()
    other[:, 1] = 9 - 9 * np.arange(2)  # only what is not counted, and position 1 of no sample is
    assert evaluate(running(other), data, "agreement", reference=running(LOGITS)).samples.tolist() == [1.0, 1.0]
    assert evaluate(running(other), data, "kl", reference=running(LOGITS)).samples.tolist() == [0.0, 0.0]


def test_agreement_and_divergence_are_taken_at_each_position() -> None:
    other = LOGITS.copy()
    other[0, 1] = (1.0, 0.0)
    data = Dataset(INPUTS)
    assert evaluate(running(other), data, "agreement", reference=running(LOGITS)).samples.tolist() == [2 / 3, 1.0]
    p, q = 1 / (1 + math.e), 1 / (1 + math.exp(-1))
    divergence = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    assert evaluate(running(other), data, "kl", reference=running(LOGITS)).samples == pytest.approx([divergence / 3, 0], rel=1e-6)


def test_what_is_no_sequence_is_one_row_of_scores() -> None:
    """(N, C, 1), as a classifier over time ends, and (N, 1, C) have one choice a sample and one label."""
    for outputs in (LOGITS[:, :, :1], LOGITS[:, :, 0][:, None]):
        score = evaluate(running(outputs), Dataset(INPUTS, np.array([2, 0])), "top1")
        assert score.samples.tolist() == [1.0, 0.0]
        assert score.choices is not None and score.choices.tolist() == [2, 1]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, 1]), r"one label a sample: the output has 2 scores at 3 positions; give integers \[N, 3\]"),
        (LABELS[:, :2], "2 labels a sample: the output has 2 scores at 3 positions"),
        (np.array([[0, 0, -1], [0, 2, 1]]), r"labels \[-1, 2\]: the output has classes 0 to 1"),
        (np.array([[0, 0, 1], [-100, -100, -100]]), "1 sample, the first at index 1: every label is -100"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        evaluate(running(LOGITS), Dataset(INPUTS, labels), "top1")


def test_shares_of_positions_have_a_bootstrap_interval() -> None:
    """Newcombe's interval would take any share but 0 for a success."""
    shares = np.tile([0.5, 1.0], 40)
    before, after = Score("agreement", np.ones(80), np.zeros((80, 2))), Score("agreement", shares, np.tile([[0, 1], [0, 0]], (40, 1)))
    found = compare(before, after)
    assert found.drop == pytest.approx(0.25) and 0.18 < found.low < 0.25 < found.high < 0.32
    assert found.changed == 40
    needed = samples_needed(before, after, 0.28)
    assert needed is not None and 200 < needed < 500
