"""Golden vectors: a few inputs and what every step of a compile makes of them.

They come from the calibration data, or from seeded noise where there is none, and travel in the artifact: a target tests itself with them,
and `effc verify` finds the pass after which outputs first changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from effc.data import Dataset
from effc.errors import Problem, VerificationError
from effc.ir import Program
from effc.ir.arrays import random_like_indices, to_numpy, to_torch
from effc.passes import Pass
from effc.runtime.tensors import Array, dtype_named, pack_npz
from effc.runtime.verify import Verification, compare

__all__ = ["Checks", "golden_inputs", "run_program", "runner"]

_SAMPLES = 8
_BYTES = 4 << 20  # of golden inputs, so that large images make few of them


def golden_inputs(program: Program, data: Dataset | None, seed: int, batch: int = 1) -> dict[str, Array]:
    """Inputs by name: the first samples of the data, or seeded noise; one whole batch for a program whose batch is fixed."""
    values = program.interface.inputs
    if data is not None:
        taken = data.take(data.unit or _count(program))
        return {value.name: np.ascontiguousarray(taken.inputs[value.name]) for value in values}
    count = _count(program) if program.interface.batch.symbolic else batch
    shapes, dtypes = [value.at_batch(count) for value in values], [getattr(torch, value.dtype) for value in values]
    noise = random_like_indices(shapes, dtypes, seed, lambda given: _run(program, given))
    return {value.name: to_numpy(tensor) for value, tensor in zip(values, noise, strict=True)}


def run_program(program: Program, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Execute a program in torch on numpy arrays."""
    results = program.run({name: to_torch(array) for name, array in inputs.items()})
    return {name: to_numpy(result) for name, result in results.items()}


def runner(program: Program) -> Callable[[dict[str, Array]], dict[str, Array]]:
    """`run_program` of one program, as evaluation wants it."""
    return lambda inputs: run_program(program, inputs)


@dataclass
class Checks:
    """Runs the golden inputs after every pass and compares with what was before.

    Attributes:
        inputs: the golden inputs.
        steps: (label, outputs) of the source and of every pass, in order.
        differences: for every pass, how its outputs differ from those before it.
    """

    inputs: Mapping[str, Array]
    steps: list[tuple[str, dict[str, Array]]] = field(default_factory=list)
    differences: list[Verification] = field(default_factory=list)

    def start(self, program: Program) -> None:
        """Run the source."""
        self.steps.append(("source", run_program(program, self.inputs)))

    def after(self, applied: Pass, program: Program) -> None:
        """Run the program after a pass. Raises VerificationError when an exact pass changed the outputs."""
        outputs = run_program(program, self.inputs)
        difference = compare(outputs, self.steps[-1][1], applied.tolerance)
        self.steps.append((applied.name, outputs))
        self.differences.append(difference)
        if applied.exact and not difference.passed:
            before = ", ".join(label for label, _ in self.steps[1:-1]) or "none"
            wrong = [
                Problem(
                    f"output {entry.name}", f"differs by {entry.relative:.3g} at {entry.index}", entry.reason or "of the largest magnitude"
                )
                for entry in difference.differences
                if not entry.within(applied.tolerance)
            ]
            raise VerificationError(
                f"pass {applied.spec} changed outputs that it keeps within {applied.tolerance:g} (passes before it: {before})",
                wrong,
            )

    @property
    def outputs(self) -> dict[str, Array]:
        """What the program computes after the last pass."""
        return self.steps[-1][1]

    def files(self) -> dict[str, bytes]:
        """`golden.npz` and `checks/NN-<pass>.npz`."""
        inputs = {f"input/{name}": array for name, array in self.inputs.items()}
        content = {"golden.npz": pack_npz({**inputs, **_prefixed(self.outputs)})}
        for index, (label, outputs) in enumerate(self.steps):
            content[f"checks/{index:02}-{label}.npz"] = pack_npz(_prefixed(outputs))
        return content


def _prefixed(outputs: Mapping[str, Array]) -> dict[str, Array]:
    return {f"output/{name}": array for name, array in outputs.items()}


def _count(program: Program) -> int:
    one = sum(int(np.prod(value.at_batch(1))) * dtype_named(value.dtype).itemsize for value in program.interface.inputs)
    return max(1, min(_SAMPLES, _BYTES // max(one, 1)))


def _run(program: Program, given: list[Tensor]) -> None:
    with torch.no_grad():
        program.call(*given)
