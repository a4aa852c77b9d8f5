"""Classes of outcomes on scores made by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from effc.errors import DataError
from effc.faultsim.outcomes import Outcome, Reference

NAN, INF = math.nan, math.inf
SIX = [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]


def judged(golden: Sequence[Any], faulty: Sequence[Any], labels: Sequence[Any] | None = None, **more: Any) -> Outcome:
    """The outcome of one output."""
    given = None if labels is None else torch.tensor(labels)
    return Reference([torch.tensor(golden)], given, **more).judge([torch.tensor(faulty)])


def logits(*shares: float) -> list[float]:
    """Scores whose softmax is these shares."""
    return [math.log(share) for share in shares]


def test_each_class_alone() -> None:
    cases: list[tuple[list[float], dict[str, int]]] = [
        (SIX, {"masked": 1}),
        ([6.0, 5.0, 4.0, 3.0, 2.0, 1.0000001], {"non_critical": 1}),
        ([5.0, 6.0, 4.0, 3.0, 2.0, 1.0], {"critical": 1}),
        ([6.0, 5.0, 4.0, 3.0, 2.0, 9.0], {"critical": 1, "sdc5": 1}),  # the class that was last, out of the five best
        ([6.0, 5.0, 4.0, 3.0, 9.0, 1.0], {"critical": 1}),
        ([6.0, 5.0, 4.0, 3.0, 2.0, NAN], {"critical": 1, "due": 1}),
        ([INF, 5.0, 4.0, 3.0, 2.0, 1.0], {"critical": 1, "due": 1}),  # an infinity in the right class is still an error that is seen
        ([6.0, 5.0, 4.0, 3.0, 2.0, -INF], {"critical": 1, "due": 1}),
        ([6.0, 5.0, 4.0, 3.0, 2.0, INF], {"critical": 1, "due": 1}),  # and no sdc5: it is not silent
        ([NAN] * 6, {"critical": 1, "due": 1}),
    ]
    for faulty, expected in cases:
        assert judged([SIX], [faulty]) == Outcome(1, **expected), faulty
    golden, faulty = [SIX] * len(cases), [case for case, _ in cases]
    assert judged(golden, faulty) == Outcome(10, masked=1, non_critical=1, critical=8, due=5, sdc5=1)


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (0.450, {}),
        (0.452, {"sdc10": 1}),  # 0.451 is 1.1 x 0.41
        (0.491, {"sdc10": 1}),
        (0.493, {"sdc10": 1, "sdc20": 1}),
        (0.371, {}),
        (0.368, {"sdc10": 1}),
        (0.327, {"sdc10": 1, "sdc20": 1}),
    ],
)
@pytest.mark.parametrize("are_shares", [True, False])
def test_confidence_is_relative_to_the_golden_one(after: float, expected: dict[str, int], are_shares: bool) -> None:
    rest = (1 - after) / 4
    before, now = (0.41, *[0.1475] * 4), (after, *[rest] * 4)
    golden, faulty = (list(before), list(now)) if are_shares else (logits(*before), logits(*now))
    assert judged([golden], [faulty]) == Outcome(1, non_critical=1, **expected)


def test_a_lost_prediction_is_no_change_of_confidence() -> None:
    assert judged([[0.6, 0.4]], [[0.1, 0.9]]) == Outcome(1, critical=1)


def test_ties_go_to_the_first_class_on_both_sides() -> None:
    assert judged([[1.0, 1.0, 0.0]], [[2.0, 2.0, 0.0]]).critical == 0
    assert judged([[1.0, 1.0, 0.0]], [[1.0, 1.5, 0.0]]).critical == 1
    assert judged([[1.0, 0.5, 0.0]], [[1.0, 1.0, 0.0]]).critical == 0


def test_labels() -> None:
    golden = [[3.0, 1.0, 0.0]] * 6
    faulty = [[3.0, 1.0, 0.0], [1.0, 3.0, 0.0], [1.0, 3.0, 0.0], [NAN, 1.0, 0.0], [1.0, 3.0, 0.0], [3.0, 2.0, 0.0]]
    labels = [0, 0, 1, 0, 2, 0]
    found = judged(golden, faulty, labels)
    # right: 0, 2, 5. The golden run: 0, 1, 3, 5. Lost in silence: 1
    assert (found.correct, found.golden_correct, found.lost) == (3, 4, 1)
    assert (found.masked, found.non_critical, found.critical, found.due) == (1, 1, 4, 1)
    unharmed = Reference([torch.tensor(golden)], torch.tensor(labels)).unharmed
    assert unharmed == Outcome(6, masked=6, correct=4, golden_correct=4)


def test_sequences() -> None:
    """A sample of several positions is critical when any of them changes, and right when all that count are."""
    golden = [[[2.0, 1.0], [1.0, 2.0], [2.0, 0.0]]] * 4
    faulty = [golden[0], [[2.0, 1.0], [2.0, 1.0], [2.0, 0.0]], [[2.0, 1.0], [1.0, 2.0], [0.0, 2.0]], [[2.0, 1.0], [1.0, 2.0], [NAN, 0.0]]]
    labels = [[0, 1, -100]] * 4
    found = judged(golden, faulty, labels)
    assert found == Outcome(4, masked=1, critical=3, due=1, correct=2, golden_correct=4, lost=1)


def test_several_outputs_count_and_the_first_predicts() -> None:
    scores, other = torch.tensor([[2.0, 1.0]] * 4), torch.tensor([[0.5], [0.5], [0.5], [0.5]])
    reference = Reference([scores, other], None)
    assert reference.judge([scores, torch.tensor([[0.5], [7.0], [INF], [NAN]])]) == Outcome(4, masked=1, non_critical=1, critical=2, due=2)


def test_infinities_of_the_golden_run_are_no_error() -> None:
    """A masked class at -Inf is usual; that it became NaN, or +Inf, is not."""
    golden = [[1.0, -INF, 0.0]] * 4
    faulty = [[2.0, -INF, 0.0], [1.0, 0.5, 0.0], [1.0, NAN, 0.0], [1.0, INF, 0.0]]
    assert judged(golden, faulty) == Outcome(4, non_critical=2, critical=2, due=2, sdc10=2, sdc20=2)
    tolerant = judged(golden, faulty, tolerance=0.5)
    assert (tolerant.due, tolerant.critical, tolerant.non_critical) == (2, 4, 0)  # 1 -> 2 and -Inf -> 0.5 are off by more than half


def test_tolerance() -> None:
    """For a regression: off by more than 10 % of the largest magnitude of the sample, whatever else is in the batch."""
    golden = [[10.0, -20.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]
    faulty = [[10.0, -20.0], [0.09, 1.0], [0.11, 1.0], [NAN, 1.0], [0.0, -INF]]
    assert judged(golden, faulty, [0] * 5, tolerance=0.1) == Outcome(5, masked=1, non_critical=1, critical=3, due=2)
    single = Reference([torch.tensor([1.0, 2.0])], torch.tensor([0, 1]), 0.1)
    assert single.judge([torch.tensor([1.0, 2.5])]) == Outcome(2, masked=1, critical=1)
    assert single.unharmed == Outcome(2, masked=2)
    assert single.failed == Outcome(2, critical=2, due=2)


@pytest.mark.parametrize(
    ("outputs", "labels", "words"),
    [
        ([[1.0, NAN]], None, "NaN"),
        ([[1.0], [2.0]], None, "--tolerance"),
        ([1.0, 2.0], None, "--tolerance"),
        ([[1.0, 2.0]], [[0, 1, 1]], "labels"),
        ([[1.0, 2.0]], [2], "classes 0 to 1"),
        ([[[1.0, 2.0], [2.0, 1.0]]], [[-100, -100]], "-100"),
    ],
)
def test_what_cannot_be_judged_is_refused(outputs: Sequence[Any], labels: Sequence[Any] | None, words: str) -> None:
    with pytest.raises(DataError, match=words):
        Reference([torch.tensor(outputs)], None if labels is None else torch.tensor(labels))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_number_formats(dtype: torch.dtype) -> None:
    golden, faulty = torch.tensor([[0.25, 0.75]] * 3, dtype=dtype), torch.tensor([[0.25, 0.75], [0.75, 0.25], [NAN, 0.75]], dtype=dtype)
    assert Reference([golden], torch.tensor([1, 1, 0])).judge([faulty]) == Outcome(
        3, masked=1, critical=2, due=1, correct=1, golden_correct=2, lost=1
    )


def test_outcomes_add_up() -> None:
    assert Outcome(1, masked=1) + Outcome(2, critical=2, due=1) == Outcome(3, masked=1, critical=2, due=1)
