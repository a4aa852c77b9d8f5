"""Metrics per sample.

- `top1`: 1 where the largest output is the label's. Larger is better.
- `agreement`: 1 where the largest output is the reference's. Larger is better.
- `kl`: Kullback-Leibler divergence from the reference's softmax to this one's, in nats. Smaller is better.
- `perplexity`: negative log-likelihood of the label in nats; the score is the exponential of its mean. Smaller is better.
- `max-error`: largest absolute difference from the reference, relative to the reference's largest magnitude. Smaller is better.

The first output of a program is what is measured; a `max-error` covers all outputs. Outputs that sum to one are taken as probabilities,
others as logits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import log_softmax

from effc.data import Dataset
from effc.errors import ConfigError, DataError, Problem, counted

__all__ = ["METRICS", "Score", "evaluate"]

Array = np.ndarray[Any, Any]
Runner = Callable[[dict[str, Array]], Mapping[str, Array]]

METRICS = ("top1", "agreement", "kl", "perplexity", "max-error")
_LARGER_IS_BETTER = ("top1", "agreement")
_WITH_LABELS = ("top1", "perplexity")


@dataclass(frozen=True)
class Score:
    """A metric on a dataset.

    Attributes:
        metric: one of METRICS.
        samples: its value for every sample (for `perplexity` the negative log-likelihoods).
        choices: the predicted class of every sample, for `top1` and `agreement`.
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
        DataError: labels are missing or out of range, or an output is NaN.
    """
    if metric not in METRICS:
        raise ConfigError(f"there is no metric {metric!r}; known: {', '.join(METRICS)}")
    if metric in _WITH_LABELS and dataset.labels is None:
        raise DataError(f"metric {metric} needs labels: give an .npz with an integer array `y`")
    if metric not in _WITH_LABELS and reference is None:
        raise ConfigError(f"metric {metric} compares with a reference, and none is given")
    parts = []
    for batch in dataset.batches(batch_size):
        outputs = run(dict(batch.inputs))
        expected = reference(dict(batch.inputs)) if reference is not None and metric not in _WITH_LABELS else {}
        parts.append(_score(metric, outputs, expected, batch))
    scores = np.concatenate([score for score, _ in parts])
    return Score(metric, scores, np.concatenate([choices for _, choices in parts]) if metric in _LARGER_IS_BETTER else None)


def _score(metric: str, outputs: Mapping[str, Array], expected: Mapping[str, Array], batch: Dataset) -> tuple[Array, Array]:
    """The metric and the predicted class of every sample; no classes where the metric compares whole outputs."""
    if metric == "max-error":
        return _errors(outputs, expected, len(batch)), np.empty(0, np.int64)
    scores = _rows(next(iter(outputs.values())), len(batch))
    choices = scores.argmax(1)
    if metric in _WITH_LABELS:
        assert batch.labels is not None
        _check_labels(batch.labels, scores.shape[1])
        if metric == "top1":
            return np.asarray(choices == batch.labels, np.float64), choices
        return np.asarray(-_log_probabilities(scores)[np.arange(len(scores)), batch.labels]), choices
    other = _rows(next(iter(expected.values())), len(batch))
    if metric == "agreement":
        return np.asarray(choices == other.argmax(1), np.float64), choices
    p, q = _log_probabilities(other), _log_probabilities(scores)
    return np.asarray(np.sum(np.exp(p) * (p - q), axis=1)), choices


def _rows(array: Array, samples: int) -> Array:
    """One row of scores a sample. Raises DataError on NaN: the argmax of NaN would be a silent wrong answer."""
    if array.shape[:1] != (samples,):
        raise DataError(
            f"the first output has shape {list(array.shape)}: its leading axis does not count the samples ({samples}); no metric applies"
        )
    rows = array.reshape(samples, -1).astype(np.float64)
    bad = np.flatnonzero(np.isnan(rows).any(axis=1))
    if bad.size:
        raise DataError(f"the output is NaN for {bad.size} of {counted(samples, 'sample')}, the first at index {bad[0]} of its batch")
    return rows


def _log_probabilities(rows: Array) -> Array:
    if rows.min() >= 0 and np.allclose(rows.sum(1), 1, atol=1e-3):
        return np.asarray(np.log(np.maximum(rows, np.finfo(np.float32).tiny)))
    return np.asarray(log_softmax(rows, axis=1))


def _check_labels(labels: Array, classes: int) -> None:
    wrong = np.unique(labels[(labels < 0) | (labels >= classes)])
    if wrong.size:
        raise DataError(
            "labels do not fit the output", [Problem("y", f"labels {wrong[:5].tolist()}", f"the output has classes 0 to {classes - 1}")]
        )


def _errors(outputs: Mapping[str, Array], expected: Mapping[str, Array], samples: int) -> Array:
    worst = np.zeros(samples)
    for name, reference in expected.items():
        want, got = (np.asarray(one, np.float64).reshape(samples, -1) for one in (reference, outputs[name]))
        scale = max(float(np.abs(want).max(initial=0)), np.finfo(np.float32).tiny)
        worst = np.maximum(worst, np.nan_to_num(np.abs(got - want).max(axis=1, initial=0), nan=np.inf) / scale)
    return worst
