"""What a search over programs judges by: the metric on the selection part of `--data`, and the densities of values in the same run.

Without a wish of the user the metric is `effc.evaluate.own_metric`: top1 for one label a sample, perplexity for labels a position (N, T),
and without labels agreement with the program before the pass, or max-error where outputs have no classes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import torch

from effc.data import Dataset
from effc.evaluate import Score, evaluate, own_metric
from effc.ir import Program
from effc.ir.arrays import to_numpy, to_torch
from effc.passes.profiling import Seen, Watch

__all__ = ["Judge"]

Array = np.ndarray[Any, Any]


class Judge:
    """The quality of programs, against the one before the pass.

    Attributes:
        metric: the name of the metric.
        before: its value for the program before the pass.
        densities: of the values that were asked for in that program, by name.

    Raises:
        DataError: labels are missing or do not fit, or an output is NaN.
    """

    def __init__(self, program: Program, data: Dataset, metric: str | None, values: Collection[str] = ()) -> None:
        self.metric = metric or own_metric(program.interface.outputs[0].shape, data.labels)
        self._data, self._program, self._interface = data, program, program.interface
        self.before, self.densities = self.judge(program, values)

    def judge(self, program: Program, values: Collection[str] = ()) -> tuple[float, dict[str, float]]:
        """The metric of a program, and the density of some of its values, by name, in [0, 1]."""
        seen = {name: Seen() for name in values}
        watch = Watch(program, {name: (one,) for name, one in seen.items()})
        score = evaluate(lambda given: _run(watch, given), self._data, self.metric, reference=self._reference())
        return score.value, {name: one.density for name, one in seen.items()}

    def value(self, module: Callable[..., Any]) -> float:
        """The metric of something that takes the program's inputs as tensors, in order, and returns its outputs."""

        def run(given: Mapping[str, Array]) -> dict[str, Array]:
            with torch.no_grad():
                results = module(*(to_torch(given[one.name]) for one in self._interface.inputs))
            parts = results if isinstance(results, tuple) else (results,)
            return {one.name: to_numpy(part) for one, part in zip(self._interface.outputs, parts, strict=True)}

        return evaluate(run, self._data, self.metric, reference=self._reference()).value

    def _reference(self) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
        """Runs the program before the pass, from the first sample on: a streaming one remembers what it saw."""
        watch = Watch(self._program, {})
        return lambda given: _run(watch, given)

    @property
    def larger_is_better(self) -> bool:
        """Whether more of the metric is better."""
        return Score(self.metric, np.zeros(1)).larger_is_better

    def loss(self, value: float) -> float:
        """How much worse a value is than before the pass: a fall of top1, a rise of perplexity."""
        return self.before - value if self.larger_is_better else value - self.before


def _run(watch: Watch, given: Mapping[str, Array]) -> dict[str, Array]:
    return {name: to_numpy(value) for name, value in watch.run_batch(Dataset(given)).items()}
