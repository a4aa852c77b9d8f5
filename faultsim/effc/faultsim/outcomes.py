"""What a fault did to each inference of a batch: the classes of `effc.faultsim.records`, counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from effc.errors import DataError, Problem
from effc.evaluate.metrics import UNCOUNTED as _UNCOUNTED
from effc.faultsim.golden import same_bits

__all__ = ["Outcome", "Reference"]


@dataclass(frozen=True)
class Outcome:
    """Inferences of each class; the fields are those of `Record`."""

    inferences: int = 0
    masked: int = 0
    non_critical: int = 0
    critical: int = 0
    due: int = 0
    sdc5: int = 0
    sdc10: int = 0
    sdc20: int = 0
    correct: int = 0
    golden_correct: int = 0
    lost: int = 0

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


class Reference:
    """The golden outputs of a batch, and how faulty ones are judged by them.

    Args:
        outputs: the golden results: the first one holds the scores of classes, (N, C) or (N, T, C), unless `tolerance` is given.
        labels: (N,) or (N, T) int64; None where there are none.
        tolerance: for programs without classes: an inference is critical when an output is off by more than this share of the golden
            output's largest magnitude in that sample.

    Raises:
        DataError: a golden output is NaN, there are no classes and no tolerance, or the labels do not fit the classes.
    """

    def __init__(self, outputs: Sequence[Tensor], labels: Tensor | None, tolerance: float | None = None) -> None:
        self._outputs, self._tolerance = tuple(outputs), tolerance
        self._size = len(outputs[0]) if outputs[0].dim() else 1
        if any(bool(torch.isnan(one).any()) for one in outputs if one.dtype.is_floating_point):
            raise DataError("an output of the fault-free run is NaN: what a fault does to it cannot be judged")
        self._labels: Tensor | None = None
        self._right: Tensor | None = None
        if tolerance is not None:
            finite = [torch.nan_to_num(one.double().abs(), posinf=0.0).reshape(self._size, -1) for one in outputs]
            self._scales = [one.amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) for one in finite]
            return
        scores = _scores(outputs[0])
        self._top = scores.argmax(2)
        self._best = scores.topk(min(5, scores.shape[2]), dim=2).indices
        self._is_probability = bool((scores >= 0).all()) and bool(((scores.double().sum(2) - 1).abs() <= 1e-3).all())
        self._confidence = self._confidences(scores)
        self._labels = None if labels is None else _fitting(labels, scores)
        self._right = None if self._labels is None else ((self._top == self._labels) | (self._labels == _UNCOUNTED)).all(1)

    @property
    def unharmed(self) -> Outcome:
        """The outcome where all outputs are the golden ones."""
        correct = 0 if self._right is None else int(self._right.sum())
        return Outcome(self._size, masked=self._size, correct=correct, golden_correct=correct)

    @property
    def failed(self) -> Outcome:
        """The outcome where the run broke off: every inference is detected, and none is lost in silence."""
        correct = 0 if self._right is None else int(self._right.sum())
        return Outcome(self._size, critical=self._size, due=self._size, golden_correct=correct)

    def judge(self, outputs: Sequence[Tensor]) -> Outcome:
        """Count the classes of faulty outputs."""
        differs, due = torch.zeros(self._size, dtype=torch.bool), torch.zeros(self._size, dtype=torch.bool)
        for new, old in zip(outputs, self._outputs, strict=True):
            if not same_bits(new, old):
                other = (new != old).reshape(self._size, -1)  # NaN differs from itself; -0 from 0 is no difference in value
                differs |= other.any(1)
                due |= (other & ~torch.isfinite(new).reshape(self._size, -1)).any(1)  # also NaN, or +Inf, where golden is -Inf
        if self._tolerance is not None:
            changed = self._beyond(outputs)
            critical = changed | due
            return self._counted(differs, critical, due)
        scores = _scores(outputs[0])
        top = torch.nan_to_num(scores, nan=-torch.inf).argmax(2)
        moved = (top != self._top).any(1)
        critical = moved | due
        silent = ~due
        same = silent & ~moved & differs
        confidence = self._confidences(scores)
        shift = ((confidence - self._confidence).abs() / self._confidence).amax(1)
        left_best = ~(top[:, :, None] == self._best).any(2).all(1)
        right = None if self._labels is None else ((top == self._labels) | (self._labels == _UNCOUNTED)).all(1) & silent
        extra = Outcome(
            sdc5=int((left_best & moved & silent).sum()),
            sdc10=int((same & (shift > 0.1)).sum()),
            sdc20=int((same & (shift > 0.2)).sum()),
            correct=0 if right is None else int(right.sum()),
            golden_correct=0 if self._right is None else int(self._right.sum()),
            lost=0 if right is None or self._right is None else int((self._right & ~right & silent).sum()),
        )
        return self._counted(differs, critical, due) + extra

    def _counted(self, differs: Tensor, critical: Tensor, due: Tensor) -> Outcome:
        return Outcome(
            self._size,
            masked=int((~differs & ~critical).sum()),
            non_critical=int((differs & ~critical).sum()),
            critical=int(critical.sum()),
            due=int(due.sum()),
        )

    def _beyond(self, outputs: Sequence[Tensor]) -> Tensor:
        assert self._tolerance is not None
        beyond = torch.zeros(self._size, dtype=torch.bool)
        for new, old, scale in zip(outputs, self._outputs, self._scales, strict=True):
            beyond |= ((new.double() - old.double()).abs().reshape(self._size, -1) > self._tolerance * scale).any(1)
        return beyond

    def _confidences(self, scores: Tensor) -> Tensor:
        """Of the golden prediction: (N, T)."""
        shares = scores if self._is_probability else torch.softmax(scores.double(), 2)
        return shares.gather(2, self._top[:, :, None])[:, :, 0].double()


def _fitting(labels: Tensor, scores: Tensor) -> Tensor:
    """Labels as (N, T). Raises DataError where they do not fit the scores."""
    samples, positions, classes = scores.shape
    given = labels.reshape(len(labels), -1)
    uncounted = given == _UNCOUNTED if labels.dim() == 2 else torch.zeros(given.shape, dtype=torch.bool)
    if given.shape != (samples, positions):
        what, why = f"labels {list(labels.shape)}", f"the output has {samples} samples of {positions} positions"
        raise DataError("labels do not fit the output", [Problem("y", what, why)])
    if bool(uncounted.all(1).any()):
        raise DataError(f"every label of a sample is {_UNCOUNTED}: nothing of it is counted; leave it out")
    wrong = sorted(set(given[~uncounted & ((given < 0) | (given >= classes))].tolist()))
    if wrong:
        why = f"the output has classes 0 to {classes - 1}"
        raise DataError("labels do not fit the output", [Problem("y", f"labels {wrong[:5]}", why)])
    return given


def _scores(output: Tensor) -> Tensor:
    """Scores as (N, T, C). Raises DataError where an output has no classes."""
    if output.dim() in (2, 3) and output.shape[-1] > 1:
        return output if output.dim() == 3 else output[:, None, :]
    raise DataError(
        f"the first output has shape {list(output.shape)}: these are no scores of classes, so no prediction can change; "
        "say with --tolerance which relative difference is critical"
    )
