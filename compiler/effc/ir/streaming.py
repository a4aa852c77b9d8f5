"""Running a streaming program on a clip: its frames one after the other, its resident states from zeros and carried from frame to frame.

A program with resident states (`State.resident`; the pass `delta` makes them) says something about frames in order only. So whoever runs a
program on samples, to check it, to judge it or to watch its values, runs it through here: T samples are T frames of one clip, and T results
come back. A program without such states computes all samples in one call, as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from effc.errors import DataError, Problem
from effc.ir.interface import BATCH, Interface, Value
from effc.ir.program import Program

__all__ = ["Clip", "in_frames", "run_clip"]

Call = Callable[..., Sequence[Tensor]]


def run_clip(program: Program, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Run a program on samples; one with resident states on the frames of one clip, from a reset.

    Args:
        program: any program.
        inputs: one tensor per frame input, by the user's name: (T, ...) where the input's leading axis is the batch (or is 1); other
            inputs are the same for every frame.

    Returns:
        One tensor per frame output, by the user's name: (T, ...). An output without such an axis must be the same for all frames.

    Raises:
        DataError: a name, shape or dtype does not fit; all of them at once. Or the program takes several samples in a call and no other
            number, so no clip can be fed. Or an output changes from frame to frame, and no axis of it counts frames.
    """
    return Clip(program).run(inputs)


def in_frames(value: Value) -> bool:
    """Whether the leading axis of an input or output of a program with resident states counts frames."""
    return bool(value.shape) and value.shape[0] in (BATCH, 1)


class Clip:
    """One clip that is fed in parts: `run` goes on where the last one ended.

    Attributes:
        program: what runs.
    """

    def __init__(self, program: Program, call: Call | None = None) -> None:
        """Begin at a reset.

        Args:
            program: any program; without resident states every `run` stands alone.
            call: what computes it, from flat inputs to flat outputs in the interface's order; `program.call` where absent.
        """
        self.program = program
        self._call = call or program.call
        self._states: dict[str, Tensor] = {}
        if program.interface.resident:
            _refuse_other_batch(program.interface)
            self.reset()

    def reset(self) -> None:
        """Forget what was seen: the next frame is the first one."""
        values = {value.name: value for value in self.program.interface.inputs}
        self._states = {
            state.input: torch.zeros(values[state.input].at_batch(1), dtype=getattr(torch, values[state.input].dtype))
            for state in self.program.interface.resident
        }

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The frame outputs for the next frames; see `run_clip`."""
        interface = self.program.interface
        if not interface.resident:
            self.program.check_inputs({name: (tuple(x.shape), _dtype(x)) for name, x in inputs.items()})
            with torch.no_grad():
                results = self._call(*(inputs[value.name] for value in interface.inputs))
            return {value.name: result for value, result in zip(interface.outputs, results, strict=True)}
        frames = self._frames(inputs)
        parts = [self._frame({name: x[t : t + 1] if name in frames else x for name, x in inputs.items()}) for t in range(_count(frames))]
        return {value.name: _joined(value, [part[value.name] for part in parts]) for value in interface.frame_outputs}

    def _frames(self, inputs: Mapping[str, Tensor]) -> dict[str, int]:
        """The number of frames in each input that holds some. Raises DataError."""
        values = {value.name: value for value in self.program.interface.frame_inputs}
        frames = {name: len(x) for name, x in inputs.items() if name in values and in_frames(values[name]) and x.ndim}
        shapes = {name: ((1, *x.shape[1:]) if name in frames else tuple(x.shape), _dtype(x)) for name, x in inputs.items()}
        self.program.check_inputs(shapes, frame=True)
        if len(set(frames.values())) != 1 or 0 in frames.values():
            raise DataError(f"the inputs are no clip: their numbers of frames are {frames}, and must be one number of at least 1")
        return frames

    def _frame(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        interface, given = self.program.interface, {**self._states, **inputs}
        with torch.no_grad():
            results = self._call(*(given[value.name] for value in interface.inputs))
        found = {value.name: result for value, result in zip(interface.outputs, results, strict=True)}
        self._states = {state.input: found[state.output] for state in interface.resident}
        return found


def _count(frames: Mapping[str, int]) -> int:
    return next(iter(frames.values()))


def _dtype(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _joined(value: Value, parts: Sequence[Tensor]) -> Tensor:
    """One output of all frames. Raises DataError."""
    if in_frames(value):
        return torch.cat(tuple(parts))
    if not all(torch.equal(part, parts[0]) for part in parts[1:]):
        raise DataError(f"the output {value} changes from frame to frame, and has no axis that could count frames")
    return parts[0]


def _refuse_other_batch(interface: Interface) -> None:
    """Raises DataError for a program that takes several streams at once: which of its samples are frames of one would be a guess."""
    if not any(in_frames(value) for value in interface.frame_inputs):
        problems = [Problem(value.name, "input", f"is {value}", "fix the batch at 1") for value in interface.frame_inputs]
        raise DataError("a clip is run frame by frame, and this program takes another number of samples in a call", problems)
