"""What a pass that trains minimises: cross-entropy with labels, and distillation from the program before the pass.

Distillation covers all outputs: of scores of classes, (N, C) or (N, T, C), it is the cross-entropy of the teacher's and the student's
probabilities; of other numbers the mean squared difference, divided by the teacher's variance. Scores are probabilities where the
teacher's sum to one, else logits. Labels are of the first output; a label of -100 is not counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from effc.data import Dataset
from effc.errors import DataError, Problem
from effc.evaluate import has_classes
from effc.evaluate.metrics import UNCOUNTED
from effc.ir import Program
from effc.ir.arrays import to_torch
from effc.ir.training import TrainableProgram
from effc.nn.distillation import distillation

__all__ = ["Objective"]

_NEAR_ONE = 1e-3  # as in effc.evaluate


class Objective:
    """The loss on the fit data, which it holds with the teacher's outputs.

    Args:
        teacher: its outputs are computed here, once.
        data: samples, with labels or without.
        metric: of the pass; with `max-error` outputs are compared as numbers even where they could hold scores of classes.
        cross_entropy, distil: weights of the two parts.

    Attributes:
        samples: how many there are.

    Raises:
        DataError: labels do not fit the outputs, or there is nothing to minimise.
    """

    def __init__(self, teacher: Program, data: Dataset, metric: str, cross_entropy: float, distil: float) -> None:
        self.samples = len(data)
        self._inputs = [to_torch(data.inputs[value.name]) for value in teacher.interface.inputs]
        found: list[tuple[Tensor, ...]] = []
        for batch in data.batches():
            found.append(tuple(teacher.run({name: to_torch(array) for name, array in batch.inputs.items()}).values()))
        self._teacher = tuple(torch.cat(parts) for parts in zip(*found, strict=True))
        self._forms = [_Form.of(one, scores=metric != "max-error") for one in self._teacher]
        self._distil = distil
        self._labels = None if data.labels is None or not self._forms[0].scores else torch.from_numpy(data.labels)
        self._cross_entropy = 0.0 if self._labels is None else cross_entropy
        if not self._cross_entropy and not (self._distil and any(form.scores or form.variance is not None for form in self._forms)):
            raise DataError("there is nothing to train by: no labels for scores of classes, and no output to distil that ever changes")
        if self._labels is not None:
            _check(self._labels, _scored(self._teacher[0]))

    def loss(self, student: TrainableProgram, rows: Tensor) -> Tensor:
        """The loss of a module on the samples at `rows` (int64): a scalar."""
        results = student(*(one[rows] for one in self._inputs))
        outputs = results if isinstance(results, tuple) else (results,)
        total: Tensor = outputs[0].new_zeros(())
        if self._distil:
            parts = [form.difference(one, held[rows]) for form, one, held in zip(self._forms, outputs, self._teacher, strict=True)]
            total = total + self._distil * torch.stack([part for part in parts if part is not None]).sum()
        if self._labels is not None and self._cross_entropy:
            logs = self._forms[0].log_probabilities(outputs[0])
            labels = self._labels[rows].reshape(-1)
            total = total + self._cross_entropy * F.nll_loss(logs.reshape(-1, logs.shape[-1]), labels, ignore_index=UNCOUNTED)
        return total


@dataclass(frozen=True)
class _Form:
    """What an output is.

    Attributes:
        scores: of classes; else numbers, compared by their mean squared difference over `variance`.
        probabilities: they are probabilities already.
        variance: of the teacher's; None for what has no gradient (integers) or never changes.
    """

    scores: bool
    probabilities: bool
    variance: float | None

    @classmethod
    def of(cls, teacher: Tensor, *, scores: bool) -> _Form:
        real = teacher.is_floating_point()
        wide = teacher.double() if real else teacher
        variance = float(wide.var()) if real and wide.numel() > 1 else 0.0
        if not (real and scores and has_classes(teacher.shape)):
            return cls(False, False, variance or None)
        sums = _scored(wide).sum(-1)
        near = max(_NEAR_ONE, torch.finfo(teacher.dtype).eps)
        return cls(True, bool(wide.min() >= 0) and bool((sums - 1).abs().max() <= near), variance or None)

    def difference(self, student: Tensor, teacher: Tensor) -> Tensor | None:
        """How far the student's output is from the teacher's: a scalar; None where that says nothing."""
        if self.scores:
            parts = [one.reshape(-1, one.shape[-1]) for one in (_scored(student), _scored(teacher))]
            return distillation(*parts, probabilities=self.probabilities)
        return None if self.variance is None else F.mse_loss(student, teacher) / self.variance

    def log_probabilities(self, output: Tensor) -> Tensor:
        """(N, T, C)."""
        scores = _scored(output)
        if self.probabilities:
            return scores.clamp_min(torch.finfo(scores.dtype).tiny).log()
        logs: Tensor = torch.log_softmax(scores, -1)
        return logs


def _scored(output: Tensor) -> Tensor:
    """Scores (N, T, C) of a batch."""
    return output.reshape(len(output), output.shape[1] if output.ndim == 3 else 1, -1)


def _check(labels: Tensor, scores: Tensor) -> None:
    count, positions, classes = scores.shape
    given = labels if labels.ndim == 2 else labels[:, None]
    problems = []
    if given.shape != (count, positions):
        problems.append(Problem("y", f"shape {list(labels.shape)}", f"the output has {positions} positions for {count} samples"))
    used = labels[labels != UNCOUNTED]
    if used.numel() and (int(used.min()) < 0 or int(used.max()) >= classes):
        problems.append(Problem("y", f"labels {int(used.min())} to {int(used.max())}", f"the output has classes 0 to {classes - 1}"))
    if problems:
        raise DataError("labels do not fit the output", problems)
