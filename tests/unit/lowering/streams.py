"""Streaming programs as machine code without an artifact: frame by frame, with what is kept in plain sight."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from effc.data import Dataset
from effc.ir import Batch, Program, Provenance
from effc.ir.streaming import run_clip
from effc.lowering import lower
from effc.lowering.kernels.options import Options, Winograd
from effc.lowering.streaming.keeping import NoListsError
from effc.passes import Context, parse_passes
from effc.passes.pipeline import Pipeline
from effc.runtime.executor import PlanExecutor, aligned_empty
from effc.targets import find_target

Array = np.ndarray


def per_frame(net: nn.Module, *shape: int) -> Program:
    """The program of a network for frames of a shape without the batch."""
    exported = torch.export.export(net.eval(), (torch.zeros(1, *shape),))
    return Program.from_exported(exported, Provenance("net", "torch", "0"), batch=Batch(False))


def streaming(net: nn.Module, clip: Array, options: str = "mode=exact") -> Program:
    """A network made streaming by the pass, all of it that can be."""
    program = per_frame(net, *clip.shape[1:])
    data = Dataset({program.interface.inputs[0].name: clip})
    return Pipeline(parse_passes(f"delta{{{options},dense=never}}"))(program, Context(fit=None if "exact" in options else data))


@dataclass(frozen=True)
class Frame:
    """Results by output, the clock behind it, positions that were computed by step, and what is kept by state."""

    outputs: dict[str, Array]
    clock: int
    active: dict[str, int]
    kept: dict[str, Array]


class Compiled:
    """A streaming program's code. Raises NoListsError where it computes all frames whole."""

    def __init__(self, program: Program, target: str = "cpu", winograd: Winograd = "auto") -> None:
        self.program = program
        lowered = lower(program, find_target(target), options=Options(winograd=winograd))
        self.notes, plan = lowered.notes, lowered.plan
        assert plan is not None
        if not plan.state_bytes:
            raise NoListsError("; ".join(self.notes) or "nothing streams")
        self.plan = plan
        taken, given = program.interface.frame_inputs, program.interface.frame_outputs
        with tempfile.TemporaryDirectory() as folder:
            code = Path(folder, "model.so")
            code.write_bytes(lowered.code)
            self.executor = PlanExecutor(plan, [v.name for v in taken], [v.name for v in given], lowered.parameters, code)
        self.inputs = [aligned_empty(value.at_batch(1), value.dtype) for value in taken]
        self.outputs = {value.name: aligned_empty(value.at_batch(1), value.dtype) for value in given}

    @property
    def listed(self) -> dict[str, str]:
        """Families of the steps that compute lists of positions, by the state that they write."""
        return {step.writes[0]: step.family for step in self.plan.steps if step.active and step.family != "frame"}

    def frame(self, frame: Array, states: Array) -> Frame:
        """One frame, (C, H, W)."""
        self.inputs[0][...] = frame
        for output in self.outputs.values():
            output[...] = np.nan  # everything is written in every frame
        self.executor.call(self.inputs, list(self.outputs.values()), states)
        clock = int(self._state(self.plan.clock, states)[0])
        active = {
            step.active.removesuffix(".active"): int(self._state(step.active, states).sum()) for step in self.plan.steps if step.active
        }
        names = [state.input for state in self.program.interface.states if state.input != self.plan.clock]
        kept = {name: self._state(name, states).copy() for name in names}
        return Frame({name: output.copy() for name, output in self.outputs.items()}, clock, active, kept)

    def new_states(self) -> Array:
        states = self.executor.new_states()
        assert states is not None
        return states

    def clip(self, frames: Array) -> list[Frame]:
        """A clip from a reset."""
        states = self.new_states()
        return [self.frame(frame, states) for frame in frames]

    def whole(self, frames: Array) -> list[Frame]:
        """Every frame computed whole: the clock is zeroed in front of each."""
        states, found = self.new_states(), []
        for frame in frames:
            self._state(self.plan.clock, states)[...] = 0
            found.append(self.frame(frame, states))
        return found

    def _state(self, name: str, states: Array) -> Array:
        buffer = self.plan.buffer(name)
        assert buffer.room == "state"
        return states[buffer.offset : buffer.offset + buffer.size].view(buffer.dtype).reshape(buffer.shape)


def reference(program: Program, frames: Array) -> dict[str, Array]:
    """What the program's own operators say."""
    (value,) = program.interface.frame_inputs
    return {name: result.numpy() for name, result in run_clip(program, {value.name: torch.from_numpy(frames)}).items()}


def same(a: Array, b: Array) -> bool:
    """Bit for bit, but a NaN is a NaN."""
    nan = np.isnan(a)
    return np.array_equal(nan, np.isnan(b)) and np.array_equal(a.view(np.int32)[~nan], b.view(np.int32)[~nan])


def special(shape: Sequence[int], scene_cut: float = 0.6, seed: int = 0) -> Array:
    """A clip of frames (C, H, W) in which everything happens that a stream must bear, one thing after the other."""
    generator = np.random.default_rng(seed)
    channels, height, width = shape

    def noise() -> Array:
        return generator.standard_normal((channels, height, width), np.float32)

    def changed(frame: Array, *place: object, to: object) -> Array:
        frame = frame.copy()
        frame[place] = to
        return frame

    first = noise()
    frames = [first, first, changed(first, 0, 0, 0, to=1.5)]
    frames.append(changed(frames[-1], -1, -1, -1, to=-1.5))
    for _ in range(3):  # a patch somewhere
        y, x = int(generator.integers(height)), int(generator.integers(width))
        frames.append(changed(frames[-1], slice(None), slice(y, y + 4), slice(x, x + 6), to=noise()[:, y : y + 4, x : x + 6]))
    order, most = generator.permutation(height * width), int(scene_cut * height * width)
    for count in (most, min(most + 1, height * width)):  # as many as are no cut, and one more
        frame = frames[-1].reshape(channels, -1).copy()
        frame[generator.integers(channels), order[:count]] += 1
        frames.append(frame.reshape(channels, height, width))
    for value in (0.0, -0.0):
        frames.append(changed(frames[-1], slice(None), 0, to=value))
    for value in (np.nan, np.inf, -np.inf):  # comes, stays and goes
        odd = changed(frames[-1], 0, height // 2, width // 2, to=value)
        frames += [odd, odd, frames[-1]]
    frames.append(noise())
    frames.append(changed(frames[-1], slice(None), slice(None), width // 2, to=0.5))
    return np.stack(frames)


def wrong(code: Compiled, program: Program, frames: Array) -> list[str]:
    """What differs from frames that are computed whole, in any bit, and from the program, by more than rounding."""
    found = []
    streamed, whole, expected = code.clip(frames), code.whole(frames), reference(program, frames)
    for t, (one, other) in enumerate(zip(streamed, whole, strict=True)):
        found += [f"frame {t}: {name} is not that of a whole frame" for name in one.kept if not same(one.kept[name], other.kept[name])]
        for name, output in one.outputs.items():
            if not same(output, other.outputs[name]):
                found.append(f"frame {t}: output {name} is not that of a whole frame")
            right = expected[name][t].reshape(output.shape)
            scale = float(np.abs(right[np.isfinite(right)]).max(initial=1e-3))
            if not np.allclose(output, right, rtol=0, atol=2e-4 * scale, equal_nan=True):
                found.append(f"frame {t}: output {name} is not the program's")
    return found
