"""Golden vectors: a few inputs and what every step of a compile makes of them.

They come from the calibration data, or from seeded noise where there is none, and travel in the artifact: a target tests itself with them,
and `effc verify` finds the pass after which outputs first changed. For a streaming program they are the frames of a clip, in order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from effc.data import Dataset
from effc.errors import Problem, VerificationError
from effc.ir import Clip, Program
from effc.ir.arrays import random_like_indices, to_numpy, to_torch
from effc.passes import Pass
from effc.runtime.tensors import Array, dtype_named, pack_npz
from effc.runtime.verify import Verification, compare

__all__ = ["Checks", "calls", "golden_count", "golden_inputs", "run_program", "runner"]

_SAMPLES = 8
_BYTES = 4 << 20  # of golden inputs, so that large images make few of them


def golden_inputs(program: Program, data: Dataset | None, seed: int, batch: int = 1) -> dict[str, Array]:
    """Inputs by name: the first samples of the data, or seeded noise; one whole batch for a program whose batch is fixed."""
    values = program.interface.frame_inputs
    if data is not None:
        taken = data.take(data.unit or golden_count(program))
        return {value.name: np.ascontiguousarray(taken.inputs[value.name]) for value in values}
    count = golden_count(program) if program.interface.batch.symbolic else batch
    shapes, dtypes = [value.at_batch(count) for value in values], [getattr(torch, value.dtype) for value in values]
    names = [value.name for value in values]
    noise = random_like_indices(shapes, dtypes, seed, lambda given: Clip(program).run(dict(zip(names, given, strict=True))))
    return {name: to_numpy(tensor) for name, tensor in zip(names, noise, strict=True)}


def run_program(program: Program, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Execute a program in torch on numpy arrays; one with resident states on the frames of one clip, from a reset.

    A program whose batch is fixed at B computes any multiple of B samples, B at a time.
    """
    return runner(program)(inputs)


def runner(program: Program) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    """`run_program` of one program, as evaluation wants it: a program with resident states goes on where the last call ended."""
    clip = Clip(program)

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        parts = [clip.run({name: to_torch(array) for name, array in part.items()}) for part in calls(program, inputs)]
        return {name: to_numpy(torch.cat([part[name] for part in parts]) if len(parts) > 1 else parts[0][name]) for name in parts[0]}

    return run


def calls(program: Program, inputs: Mapping[str, Array], size: int | None = None) -> list[dict[str, Array]]:
    """The samples in parts that one call takes: of `size`, or, where that is None, of the size that a fixed batch demands.

    A clip stays whole.
    """
    interface = program.interface
    if interface.resident or (interface.batch.symbolic and size is None):
        return [dict(inputs)]
    values = {value.name: value for value in interface.inputs if value.shape}
    counts = {len(array) for name, array in inputs.items() if name in values and np.ndim(array)}
    step = size or next((int(value.shape[0]) for value in values.values()), 1)
    if len(counts) != 1 or step < 1 or (count := counts.pop()) <= step or count % step:
        return [dict(inputs)]
    return [{name: array[start : start + step] for name, array in inputs.items()} for start in range(0, count, step)]


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
    _last: Program | None = None

    def start(self, program: Program) -> None:
        """Run the source."""
        self._last = program
        self.steps.append(("source", run_program(program, self.inputs)))

    def after(self, applied: Pass, program: Program) -> None:
        """Run the program after a pass. Raises VerificationError when an exact pass changed the outputs."""
        outputs = run_program(program, self.inputs)
        difference = compare(outputs, self._before(program), applied.tolerance)
        self._last = program
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

    def _before(self, program: Program) -> dict[str, Array]:
        """What the program before a pass computes: frame by frame where the result runs so, since torch's sums depend on the batch."""
        last = self._last
        if last is None or last.interface.resident or not program.interface.resident:
            return self.steps[-1][1]
        parts = [run_program(last, part) for part in calls(last, self.inputs, 1)]
        return {name: np.concatenate([part[name] for part in parts]) if len(parts) > 1 else parts[0][name] for name in parts[0]}

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


def golden_count(program: Program) -> int:
    """How many samples of one call are golden ones."""
    one = sum(int(np.prod(value.at_batch(1))) * dtype_named(value.dtype).itemsize for value in program.interface.frame_inputs)
    return max(1, min(_SAMPLES, _BYTES // max(one, 1)))
