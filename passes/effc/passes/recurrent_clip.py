"""A program with recurrent layers on data: call after call, all states carried, what was seen at some of its nodes.

The samples are calls in order. States of the user begin with what the data hold for the first call, or with zeros, and then go on with what
the program computes; resident states begin with zeros. A program without states computes every call by itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from effc.data import Dataset
from effc.errors import DataError
from effc.ir import Program
from effc.ir.arrays import to_torch
from effc.ir.interface import BATCH, Value
from effc.passes.profiling import Seen

__all__ = ["Calls", "largest_error", "run_calls"]


@dataclass(frozen=True)
class Calls:
    """What a run showed.

    Attributes:
        outputs: of every call, by the user's names; states are not among them.
        seen: extremes and density by node name.
        count: of calls.
    """

    outputs: Sequence[Mapping[str, Tensor]]
    seen: Mapping[str, Seen]
    count: int


def run_calls(program: Program, data: Dataset, names: Collection[str] = ()) -> Calls:
    """Run a program on data.

    Args:
        program: with or without states.
        data: every input that is no resident state; those of user states are read for the first call alone, and may be missing.
        names: the nodes to look at.

    Raises:
        DataError: there are fewer samples than one call takes.
    """
    interface = program.interface
    states = {state.input: state.output for state in interface.states}
    values = {value.name: value for value in interface.inputs}
    rows = {name: _rows(value) for name, value in values.items() if name not in states}
    count = min(len(data.inputs[name]) // size for name, size in rows.items())
    if not count:
        raise DataError(f"the calibration data hold {len(data)} samples, and one call takes {max(rows.values())}")
    interpreter = _Seeing(program, {name: Seen(histogram=True) for name in names})
    held = {name: _first(values[name], data) for name in states}
    outputs = []
    for call in range(count):
        given = {name: to_torch(data.inputs[name][call * size : (call + 1) * size]) for name, size in rows.items()} | held
        found = interpreter.call(given)
        held = {name: found[output] for name, output in states.items()}
        outputs.append({name: value for name, value in found.items() if name not in states.values()})
    if not outputs[0]:  # a cell whose only result is its state
        raise DataError("the program has no output beside its states, so no error can be measured")
    return Calls(outputs, interpreter.seen, count)


def largest_error(calls: Calls, dense: Calls) -> float:
    """The largest difference over all calls, relative to the largest magnitude of each output over all of them; NaN where one is NaN."""
    worst = torch.zeros((), dtype=torch.float64)
    for name in dense.outputs[0]:
        wanted = torch.stack([one[name] for one in dense.outputs]).double()
        got = torch.stack([one[name] for one in calls.outputs]).double()
        scale = wanted.abs().max()
        worst = torch.maximum(worst, (got - wanted).abs().max() / (scale if scale > 0 else 1))
    return float(worst)


def _rows(value: Value) -> int:
    """Samples of an input in one call."""
    return 1 if not value.shape or value.shape[0] == BATCH else int(value.shape[0])


def _first(value: Value, data: Dataset) -> Tensor:
    given = data.inputs.get(value.name)
    if given is not None and len(given) >= _rows(value):
        return to_torch(given[: _rows(value)])
    return torch.zeros(value.at_batch(1), dtype=getattr(torch, value.dtype))


class _Seeing(fx.Interpreter):
    """Runs the graph and looks at some of its nodes."""

    def __init__(self, program: Program, seen: Mapping[str, Seen]) -> None:
        super().__init__(program.exported.graph_module)
        self.seen = seen
        self._interface = program.interface
        self._stored = [program.tensors[name] for name in program.tensor_names]

    def call(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with torch.no_grad():
            results = self.run(*self._stored, *(given[value.name] for value in self._interface.inputs))
        return dict(zip((value.name for value in self._interface.outputs), results, strict=True))

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor) and n.name in self.seen:
            self.seen[n.name].see(value)
        return value
