"""Metrics per sample.

- `top1`: 1 where the largest output is the label's. Larger is better.
- `agreement`: 1 where the largest output is the reference's. Larger is better.
- `kl`: Kullback-Leibler divergence from the reference's softmax to this one's, in nats. Smaller is better.
- `perplexity`: negative log-likelihood of the label in nats; the score is the exponential of its mean. Smaller is better.
- `max-error`: largest absolute difference from the reference, relative to the reference's largest magnitude. Smaller is better.

The first output of a program is what is measured; a `max-error` covers all outputs. Outputs that sum to one are taken as probabilities,
others as logits.

An output (N, T, C) holds C scores for each of T positions: labels are (N, T) then, and the value of a sample is the mean over its
positions. A position whose label is -100 is not counted, by no metric but `max-error`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import log_softmax

from effc.data import Dataset
from effc.errors import ConfigError, DataError, Problem, counted

__all__ = ["METRICS", "UNCOUNTED", "Score", "evaluate", "has_classes", "own_metric"]

Array = np.ndarray[Any, Any]
Runner = Callable[[dict[str, Array]], Mapping[str, Array]]

METRICS = ("top1", "agreement", "kl", "perplexity", "max-error")
UNCOUNTED = -100  # the label of a position that is not counted; torch's cross_entropy calls it ignore_index
_LARGER_IS_BETTER = ("top1", "agreement")
_WITH_LABELS = ("top1", "perplexity")


def has_classes(shape: Sequence[object]) -> bool:
    """Whether an output of this shape (the batch first) holds scores of classes: (N, C) or (N, T, C) with two classes or more."""
    return len(shape) in (2, 3) and shape[-1] != 1


def own_metric(shape: Sequence[object], labels: Array | None) -> str:
    """The metric of data where nobody asks for another one, for a first output of this shape (the batch first).

    top1 with one label a sample, perplexity with labels by position; without labels agreement where the output has classes to agree on,
    else max-error: of a single number, or of an image, the largest element says nothing.
    """
    if labels is not None:
        return "perplexity" if labels.ndim == 2 else "top1"
    return "agreement" if has_classes(shape) else "max-error"


@dataclass(frozen=True)
class Score:
    """A metric on a dataset.

    Attributes:
        metric: one of METRICS.
        samples: its value for every sample (for `perplexity` the negative log-likelihoods): (N,) float64.
        choices: the predicted class of every sample, for `top1` and `agreement`: (N,); of every position, (N, T), for sequences, and -1
            where a position is not counted.
    """

    metric: str
    samples: Array
    choices: Array | None = None

    @property
    def value(self) -> float:
        """The mean; for `perplexity` the exponential of the mean, for `max-error` the largest."""
        if self.metric == "max-error":
            return float(self.samples.max())
        mean = float(self.samples.mean())
        return float(np.exp(mean)) if self.metric == "perplexity" else mean

    @property
    def larger_is_better(self) -> bool:
        return self.metric in _LARGER_IS_BETTER


def evaluate(run: Runner, dataset: Dataset, metric: str, *, reference: Runner | None = None, batch_size: int = 64) -> Score:
    """Run all samples and score each.

    Args:
        run: inputs by name -> outputs by name; what is judged.
        dataset: samples, with labels for `top1` and `perplexity`.
        metric: one of METRICS.
        reference: what to agree with, for `agreement`, `kl` and `max-error`.
        batch_size: samples of one call, where the program leaves that open.

    Raises:
        ConfigError: no such metric, or it needs a reference.
        DataError: labels are missing, out of range or of another shape than the output's, no position of a sample is counted, or an output
            is NaN.
    """
    if metric not in METRICS:
        raise ConfigError(f"there is no metric {metric!r}; known: {', '.join(METRICS)}")
    if metric in _WITH_LABELS and dataset.labels is None:
        raise DataError(f"metric {metric} needs labels: give an .npz with an integer array `y`")
    if metric not in _WITH_LABELS and reference is None:
        raise ConfigError(f"metric {metric} compares with a reference, and none is given")
    if metric != "max-error" and dataset.labels is not None and dataset.labels.ndim == 2:
        _refuse_uncounted(dataset.labels)
    parts = []
    for batch in dataset.batches(batch_size):
        outputs = run(dict(batch.inputs))
        expected = reference(dict(batch.inputs)) if reference is not None and metric not in _WITH_LABELS else {}
        parts.append(_score(metric, outputs, expected, batch))
    scores = np.concatenate([score for score, _ in parts])
    return Score(metric, scores, np.concatenate([choices for _, choices in parts]) if metric in _LARGER_IS_BETTER else None)


def _refuse_uncounted(labels: Array) -> None:
    empty = np.flatnonzero((labels == UNCOUNTED).all(axis=1))
    if empty.size:
        what = f"{counted(empty.size, 'sample')}, the first at index {empty[0]}"
        raise DataError(
            "samples without a value", [Problem("y", what, f"every label is {UNCOUNTED}: nothing is counted", "leave them out")]
        )


def _score(metric: str, outputs: Mapping[str, Array], expected: Mapping[str, Array], batch: Dataset) -> tuple[Array, Array]:
    """The metric of every sample, and the predicted class of every position; no classes where the metric compares whole outputs."""
    if metric == "max-error":
        return _errors(outputs, expected, len(batch)), np.empty(0, np.int64)
    scores = _scores(next(iter(outputs.values())), len(batch))
    needed = metric in _WITH_LABELS
    labels = _labels(batch.labels, scores, needed) if needed or (batch.labels is not None and batch.labels.ndim == 2) else None
    counted_ones = np.ones(scores.shape[:2], bool) if labels is None else labels != UNCOUNTED
    choices = np.where(counted_ones, scores.argmax(2), -1)
    if metric == "top1":
        values: Array = choices == labels
    elif metric == "perplexity":
        assert labels is not None
        picked = np.where(counted_ones, labels, 0)[:, :, None]
        values = -np.take_along_axis(_log_probabilities(scores), picked, 2)[:, :, 0]
    else:
        other = _scores(next(iter(expected.values())), len(batch))
        if metric == "agreement":
            values = choices == other.argmax(2)
        else:
            p, q = _log_probabilities(other), _log_probabilities(scores)
            values = np.sum(np.exp(p) * (p - q), axis=2)
    means = np.where(counted_ones, values, 0.0).sum(1) / counted_ones.sum(1)
    return means, choices[:, 0] if choices.shape[1] == 1 else choices


def _scores(array: Array, samples: int) -> Array:
    """Scores as (N, T, C): T = 1 for outputs that are no sequence. Raises DataError on NaN: its argmax would be a silent wrong answer."""
    if array.shape[:1] != (samples,):
        raise DataError(
            f"the first output has shape {list(array.shape)}: its leading axis does not count the samples ({samples}); no metric applies"
        )
    is_sequence = array.ndim == 3 and array.shape[2] > 1
    scores = array.reshape(samples, array.shape[1] if is_sequence else 1, -1).astype(np.float64)
    bad = np.flatnonzero(np.isnan(scores).any(axis=(1, 2)))
    if bad.size:
        raise DataError(f"the output is NaN for {bad.size} of {counted(samples, 'sample')}, the first at index {bad[0]} of its batch")
    return scores


def _log_probabilities(scores: Array) -> Array:
    if scores.min() >= 0 and np.allclose(scores.sum(2), 1, atol=1e-3):
        return np.asarray(np.log(np.maximum(scores, np.finfo(np.float32).tiny)))
    return np.asarray(log_softmax(scores, axis=2))


def _labels(labels: Array | None, scores: Array, needed: bool) -> Array:
    """Labels as (N, T). Raises DataError where they do not fit the scores; where they only say what counts, they need no class."""
    assert labels is not None
    samples, positions, classes = scores.shape
    uncounted = labels == UNCOUNTED if labels.ndim == 2 else np.zeros(labels.shape, bool)
    given = labels[:, None] if labels.ndim == 1 else labels
    if given.shape != (samples, positions):
        what = "one label a sample" if labels.ndim == 1 else f"{counted(labels.shape[1], 'label')} a sample"
        why = f"the output has {counted(classes, 'score')} at {counted(positions, 'position')}"
        raise DataError(
            "labels do not fit the output", [Problem("y", what, why, f"give integers [N, {positions}]" if positions > 1 else "")]
        )
    wrong = np.unique(labels[~uncounted & ((labels < 0) | (labels >= classes))]) if needed else np.empty(0)
    if wrong.size:
        raise DataError(
            "labels do not fit the output", [Problem("y", f"labels {wrong[:5].tolist()}", f"the output has classes 0 to {classes - 1}")]
        )
    return given


def _errors(outputs: Mapping[str, Array], expected: Mapping[str, Array], samples: int) -> Array:
    worst = np.zeros(samples)
    for name, reference in expected.items():
        want, got = (np.asarray(one, np.float64).reshape(samples, -1) for one in (reference, outputs[name]))
        scale = max(float(np.abs(want).max(initial=0)), np.finfo(np.float32).tiny)
        worst = np.maximum(worst, np.nan_to_num(np.abs(got - want).max(axis=1, initial=0), nan=np.inf) / scale)
    return worst
