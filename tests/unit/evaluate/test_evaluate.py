"""Metrics against values worked out by hand, and intervals against published ones."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from effc.data import Dataset
from effc.errors import ConfigError, DataError
from effc.evaluate import Score, compare, evaluate, own_metric, samples_needed

LOGITS = np.array([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [0.0, 0.0, 5.0], [1.0, 0.0, 0.0]], np.float32)
LABELS = np.array([0, 1, 0, 2])


def running(outputs: np.ndarray[Any, Any]) -> Any:
    return lambda inputs: {"y": outputs[inputs["x"][:, 0]]}


DATA = Dataset({"x": np.arange(4)[:, None]}, LABELS)


def test_metrics_by_hand() -> None:
    assert evaluate(running(LOGITS), DATA, "top1", batch_size=3).samples.tolist() == [1, 1, 0, 0]
    other = LOGITS[:, ::-1]
    assert evaluate(running(LOGITS), DATA, "agreement", reference=running(other)).value == 0.25
    row = LOGITS[0].astype(np.float64)
    nll = math.log(sum(math.exp(v) for v in row)) - row[0]
    assert evaluate(running(LOGITS), DATA, "perplexity").samples[0] == pytest.approx(nll, rel=1e-12)
    p, q = (np.exp(v) / np.exp(v).sum() for v in (other[0].astype(np.float64), row))
    divergence = evaluate(running(LOGITS), DATA, "kl", reference=running(other)).samples[0]
    assert divergence == pytest.approx(float((p * np.log(p / q)).sum()), rel=1e-9)
    assert evaluate(running(LOGITS + 0.5), DATA, "max-error", reference=running(LOGITS)).value == pytest.approx(0.5 / 5)
    probabilities = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    of_logits = evaluate(running(LOGITS), DATA, "perplexity").value
    assert evaluate(running(probabilities), DATA, "perplexity").value == pytest.approx(of_logits, rel=1e-5)


def test_nothing_is_scored_that_has_no_score() -> None:
    broken = LOGITS.copy()
    broken[2, 1] = np.nan
    with pytest.raises(DataError, match="NaN for 1 of 4"):
        evaluate(running(broken), DATA, "top1")
    with pytest.raises(DataError, match="classes 0 to 2"):
        evaluate(running(LOGITS), Dataset(DATA.inputs, np.array([0, 1, 2, 7])), "top1")
    with pytest.raises(DataError, match="labels"):
        evaluate(running(LOGITS), Dataset(DATA.inputs), "top1")
    with pytest.raises(ConfigError, match="reference"):
        evaluate(running(LOGITS), DATA, "agreement")
    assert evaluate(running(broken), DATA, "max-error", reference=running(LOGITS)).value == math.inf


def _pair(both: int, lost: int, won: int, neither: int) -> tuple[Score, Score]:
    before = [1] * (both + lost) + [0] * (won + neither)
    after = [1] * both + [0] * lost + [1] * won + [0] * neither
    return Score("top1", np.array(before, float)), Score("top1", np.array(after, float))


@pytest.mark.parametrize(
    ("table", "low", "high"),
    [
        ((36, 12, 2, 0), 0.0569, 0.3404),  # Newcombe's own example, table III
        ((0, 0, 0, 30), -0.1135, 0.1135),  # no success at all: Wilson's z^2 / (n + z^2) on either side
        ((54, 0, 0, 0), -0.0664, 0.0664),
    ],
)
def test_the_interval_is_newcombes(table: tuple[int, int, int, int], low: float, high: float) -> None:
    difference = compare(*_pair(*table))
    assert (round(difference.low, 4), round(difference.high, 4)) == (low, high)


def test_a_drop_is_positive_where_it_got_worse() -> None:
    assert compare(*_pair(8, 2, 0, 0)).drop == pytest.approx(0.2)
    worse = compare(Score("kl", np.zeros(50)), Score("kl", np.linspace(0, 1, 50)))
    assert worse.drop == pytest.approx(0.5) and 0.3 < worse.low < 0.5 < worse.high < 0.7
    assert compare(Score("kl", np.zeros(50)), Score("kl", np.linspace(0, 1, 50))) == worse


def test_so_many_samples_decide() -> None:
    """The number that is named does it, one sample fewer does not."""
    needed = samples_needed(*_pair(50, 0, 0, 0), 0.01)
    assert needed is not None
    assert compare(*_pair(needed, 0, 0, 0)).high <= 0.01 < compare(*_pair(needed - 1, 0, 0, 0)).high
    assert samples_needed(*_pair(49, 1, 0, 0), 0.02) is None, "the bound is the measured drop"
    divergences = np.tile(np.linspace(0, 1, 40), 5)
    more = samples_needed(Score("kl", np.zeros(40)), Score("kl", divergences[:40]), 0.55)
    assert more is not None and 80 < more <= 200
    assert compare(Score("kl", np.zeros(40)), Score("kl", divergences[:40])).high > 0.55
    assert compare(Score("kl", np.zeros(200)), Score("kl", divergences)).high <= 0.55


def test_one_sample_has_no_bootstrap_interval() -> None:
    alone = compare(Score("kl", np.zeros(1)), Score("kl", np.ones(1)))
    assert alone.drop == 1 and (alone.low, alone.high) == (-math.inf, math.inf)
    assert samples_needed(Score("kl", np.zeros(1)), Score("kl", np.ones(1)), 5) is None


def test_the_metric_of_data_where_nobody_asks_for_one() -> None:
    """Over one class everything agrees, and of an image the largest element says nothing."""
    one, many = np.zeros(4, np.int64), np.zeros((4, 7), np.int64)
    assert [own_metric(("N", 10), labels) for labels in (one, many, None)] == ["top1", "perplexity", "agreement"]
    assert own_metric(("N", 7, 10), None) == "agreement"
    assert [own_metric(shape, None) for shape in (("N", 1), ("N",), ("N", 7, 1), ("N", 3, 8, 8))] == ["max-error"] * 4
