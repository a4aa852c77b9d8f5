"""What a pass that trains minimises: cross-entropy with labels, and distillation from the program before the pass.

Scores are read from outputs as `effc.evaluate` reads them: the first output, (N, C) or (N, T, C), probabilities where they are that
already (the teacher's sum to one), else logits. A label of -100 is not counted.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from effc.data import Dataset
from effc.errors import DataError, Problem
from effc.evaluate.metrics import UNCOUNTED
from effc.ir import Program
from effc.ir.arrays import to_torch
from effc.ir.training import TrainableProgram
from effc.nn.distillation import distillation

__all__ = ["Objective"]


class Objective:
    """The loss on the fit data, which it holds with the teacher's outputs.

    Args:
        teacher: its outputs are computed here, once.
        data: samples, with labels or without.
        metric: of the pass; `max-error` says that outputs are no scores of classes.
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
        self._scores = metric != "max-error"
        self._distil = distil
        self._labels = None if data.labels is None or not self._scores else torch.from_numpy(data.labels)
        self._cross_entropy = 0.0 if self._labels is None else cross_entropy
        if not self._cross_entropy and not self._distil:
            raise DataError("there is nothing to train by: the data have no labels, and distillation is off")
        self._variances = [one.double().var().clamp_min(torch.finfo(torch.float32).tiny).float() for one in self._teacher]
        if self._scores:
            first = self._scored(self._teacher[0])
            self._probabilities = bool(first.min() >= 0) and bool(torch.allclose(first.sum(-1), torch.ones(()), atol=1e-3))
            self._check(first)

    def loss(self, student: TrainableProgram, rows: Tensor) -> Tensor:
        """The loss of a module on the samples at `rows` (int64): a scalar."""
        results = student(*(one[rows] for one in self._inputs))
        outputs = results if isinstance(results, tuple) else (results,)
        if not self._scores:
            parts = zip(outputs, self._teacher, self._variances, strict=True)
            return self._distil * torch.stack([F.mse_loss(one, wanted[rows]) / scale for one, wanted, scale in parts]).mean()
        scores = self._scored(outputs[0])
        total = scores.new_zeros(())
        if self._distil:
            wanted = self._scored(self._teacher[0][rows])
            classes = scores.shape[-1]
            total = total + self._distil * distillation(
                scores.reshape(-1, classes), wanted.reshape(-1, classes), probabilities=self._probabilities
            )
        if self._labels is not None and self._cross_entropy:
            logs = scores.clamp_min(torch.finfo(scores.dtype).tiny).log() if self._probabilities else F.log_softmax(scores, -1)
            labels = self._labels[rows].reshape(-1)
            total = total + self._cross_entropy * F.nll_loss(logs.reshape(-1, logs.shape[-1]), labels, ignore_index=UNCOUNTED)
        return total

    def _scored(self, output: Tensor) -> Tensor:
        """Scores (N, T, C) of a batch."""
        is_sequence = output.ndim == 3 and output.shape[2] > 1
        return output.reshape(len(output), output.shape[1] if is_sequence else 1, -1)

    def _check(self, scores: Tensor) -> None:
        if self._labels is None:
            return
        count, positions, classes = scores.shape
        given = self._labels if self._labels.ndim == 2 else self._labels[:, None]
        problems = []
        if given.shape != (count, positions):
            problems.append(Problem("y", f"shape {list(self._labels.shape)}", f"the output has {positions} positions for {count} samples"))
        used = self._labels[self._labels != UNCOUNTED]
        if used.numel() and (int(used.min()) < 0 or int(used.max()) >= classes):
            problems.append(Problem("y", f"labels {int(used.min())} to {int(used.max())}", f"the output has classes 0 to {classes - 1}"))
        if problems:
            raise DataError("labels do not fit the output", problems)
