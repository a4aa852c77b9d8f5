"""The calls that the self-test of C sources makes: the golden inputs in the shapes of one call, and what the program computes of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from effc.compiler.golden import calls, run_program
from effc.ir import Program, Value
from effc.ir.arrays import to_numpy, to_torch
from effc.ir.streaming import in_frames
from effc.lowering import Lowered
from effc.lowering.c99.sources import GoldenCall
from effc.runtime.tensors import Array, dtype_named

__all__ = ["golden_calls"]

_BYTES = 64 << 10  # of the vectors of all calls, which lie in the flash of whoever runs the self-test
_FRAMES = 3  # of a stream, whatever they take: one that is computed whole, and two that are not


def golden_calls(program: Program, golden: Mapping[str, Array], lowered: Lowered) -> list[GoldenCall]:
    """As many calls as fit into 64 KiB, at least one; of a stream its first frames, at least three of them where there are so many.

    Args:
        program: what was lowered.
        golden: the golden inputs, by the user's names.
        lowered: gives the batch, and whether the code keeps the states itself.
    """
    interface = program.interface
    plan = lowered.plan
    assert plan is not None, "C sources are made from a plan only"
    one = sum(buffer.size for room in ("input", "output") for buffer in plan.in_room(room))
    most = max(1, _BYTES // max(1, one))
    if not interface.resident:
        parts = calls(program, golden, lowered.batch if interface.batch.symbolic else None)
        if interface.batch.symbolic and len(parts) == 1:
            parts = [_filled(golden, program, lowered.batch)]
        return [GoldenCall(part, run_program(program, part)) for part in parts[:most]]
    frames = [_frame(golden, interface.frame_inputs, t) for t in range(min(_count(golden), max(most, _FRAMES)))]
    if not plan.state_bytes:
        return _with_states(program, frames)
    clip = {value.name: _joined(frames, value) for value in interface.frame_inputs}
    outputs = run_program(program, clip)
    return [GoldenCall(frame, _frame(outputs, interface.frame_outputs, t)) for t, frame in enumerate(frames)]


def _filled(golden: Mapping[str, Array], program: Program, batch: int) -> dict[str, Array]:
    """One call of a batch that has more samples than there are, or another number: samples again from the first on."""
    batched = {value.name for value in program.interface.inputs if value.shape and isinstance(value.shape[0], str)}
    return {name: np.resize(array, (batch, *array.shape[1:])) if name in batched else array for name, array in golden.items()}


def _with_states(program: Program, frames: Sequence[Mapping[str, Array]]) -> list[GoldenCall]:
    """Calls that take resident states, zeros at first, and give their new values."""
    interface = program.interface
    own = {state.input for state in interface.resident}
    states = {value.name: np.zeros(value.at_batch(1), dtype_named(value.dtype)) for value in interface.inputs if value.name in own}
    found = []
    for frame in frames:
        inputs = {**frame, **states}
        results = program.run({name: to_torch(array) for name, array in inputs.items()})
        outputs = {name: to_numpy(result) for name, result in results.items()}
        found.append(GoldenCall(inputs, outputs))
        states = {state.input: outputs[state.output] for state in interface.resident}
    return found


def _count(golden: Mapping[str, Array]) -> int:
    return len(next(iter(golden.values())))


def _frame(arrays: Mapping[str, Array], values: Sequence[Value], t: int) -> dict[str, Array]:
    return {value.name: arrays[value.name][t : t + 1] if in_frames(value) else arrays[value.name] for value in values}


def _joined(frames: Sequence[Mapping[str, Array]], value: Value) -> Array:
    parts = [frame[value.name] for frame in frames]
    return np.concatenate(parts) if in_frames(value) else parts[0]
