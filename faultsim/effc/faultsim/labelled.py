"""Loss and accuracy on labelled samples, of a network whose outputs may be anything: faults make NaN and infinities.

The loss of a sample is the negative log-likelihood of its label, in nats and in float64. One that is NaN or infinite counts as +infinity.
Two losses of a data set compare by how many samples are infinite and then by the mean of the others: where the plain mean is infinite for
both, the fault that reaches more samples is still the worse one. A sample with a NaN among its scores is predicted wrongly.

Outputs are read as `effc.evaluate` reads them: the first one, (N, C) or (N, T, C); what sums to one are probabilities; positions with the
label -100 are not counted; a sample of several positions has their mean.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from effc.data import Dataset
from effc.errors import ConfigError
from effc.evaluate import evaluate
from effc.evaluate.metrics import UNCOUNTED
from effc.ir import Program
from effc.ir.arrays import to_numpy, to_torch

__all__ = ["Labelled", "Loss"]

Array = np.ndarray[Any, Any]
BATCH = 256  # samples of one call: activations of a large network stay within memory, and small networks are not slowed down


class Loss(NamedTuple):
    """The loss of a data set; a larger one is worse. `infinite`: samples whose loss is infinite. `mean`: of the others, in nats."""

    infinite: int
    mean: float

    @property
    def value(self) -> float:
        """The plain mean over all samples: infinite as soon as one is."""
        return float("inf") if self.infinite else self.mean


class Labelled:
    """Samples with labels, and how a network does on them.

    Args:
        program: the network as it is. It predicts the labels where the data set has none.
        dataset: the samples.

    Attributes:
        accuracy_of_program: share of samples that the program itself gets right; 1 where it made the labels.

    Raises:
        ConfigError: there are no samples.
        DataError: inputs or labels do not fit the program, or its outputs are NaN.
    """

    def __init__(self, program: Program, dataset: Dataset) -> None:
        if not len(dataset):
            raise ConfigError("the data set has no samples; the search needs some to compute a loss, and some to count errors on")
        names = [value.name for value in program.interface.inputs]
        self._names = names

        def run(inputs: dict[str, Array]) -> dict[str, Array]:
            outputs = program.run({name: to_torch(inputs[name]) for name in names})
            return {name: to_numpy(output) for name, output in outputs.items()}

        if dataset.labels is None:
            score = evaluate(run, dataset, "agreement", reference=run, batch_size=BATCH)
            assert score.choices is not None
            dataset = Dataset(dataset.inputs, score.choices.astype(np.int64), dataset.unit)
        else:
            score = evaluate(run, dataset, "top1", batch_size=BATCH)
        self.accuracy_of_program = score.value
        self._dataset = dataset
        with torch.no_grad():
            scores, _ = self._scored(program.call, next(dataset.batches(BATCH)))
        self._are_probabilities = bool((scores >= 0).all()) and torch.allclose(scores.sum(2), torch.ones(()).double(), atol=1e-3)

    def __len__(self) -> int:
        return len(self._dataset)

    def loss(self, network: Callable[..., Any]) -> Loss:
        """Of a network in the program's place: inputs in the interface's order -> its outputs."""
        with torch.no_grad():
            each = torch.cat([self._losses(network, batch) for batch in self._dataset.batches(BATCH)])
        finite = each[each.isfinite()]
        return Loss(len(each) - len(finite), float(finite.mean()) if len(finite) else 0.0)

    def accuracy(self, network: Callable[..., Any]) -> float:
        """Share of samples whose prediction is the label."""
        right = []
        with torch.no_grad():
            for batch in self._dataset.batches(BATCH):
                scores, labels = self._scored(network, batch)
                correct = (scores.argmax(2) == labels) & ~scores.isnan().any(2)
                right.append(_mean(correct.double(), labels != UNCOUNTED))
        return float(torch.cat(right).mean())

    def backward(self, network: Callable[..., Any]) -> None:
        """Add the gradient of the mean loss to the network's parameters.

        Samples of infinite loss have none, and would make everyone's NaN: they are left out of the call, where the batch is not fixed.
        """
        for batch in self._dataset.batches(BATCH):
            each = self._losses(network, batch)
            finite = each.isfinite()
            if not bool(finite.any()):
                continue
            if not bool(finite.all()):
                part = batch if batch.unit else batch.part(finite.numpy())
                each = self._losses(network, part)
                each = each[each.isfinite()]
            (each.sum() / len(self)).backward()  # type: ignore[no-untyped-call]

    def _losses(self, network: Callable[..., Any], batch: Dataset) -> Tensor:
        """The loss of every sample: (n,) float64; not finite where it is infinite."""
        scores, labels = self._scored(network, batch)
        tiny = torch.finfo(torch.float32).tiny
        likelihoods = scores.clamp_min(tiny).log() if self._are_probabilities else scores.log_softmax(2)
        counted = labels != UNCOUNTED
        picked = likelihoods.gather(2, torch.where(counted, labels, 0)[:, :, None])[:, :, 0]
        return _mean(torch.where(counted, -picked, 0.0), counted)

    def _scored(self, network: Callable[..., Any], batch: Dataset) -> tuple[Tensor, Tensor]:
        """Scores (n, T, C) in float64 and labels (n, T)."""
        outputs = network(*(to_torch(batch.inputs[name]) for name in self._names))
        first = outputs[0] if isinstance(outputs, tuple) else outputs
        assert batch.labels is not None
        labels = torch.from_numpy(batch.labels.astype(np.int64)).reshape(len(batch), -1)
        return first.double().reshape(len(batch), labels.shape[1], -1), labels


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    """Over the counted positions of each sample: (n, T) -> (n,)."""
    return torch.where(counted, values, 0.0).sum(1) / counted.sum(1)
