"""Run a streaming program frame by frame: its states stay inside."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import numpy as np

from effc.errors import DataError, Problem
from effc.runtime.activity import ActivityReader, FrameActivity
from effc.runtime.manifest import TensorSpec
from effc.runtime.session import Session
from effc.runtime.tensors import Array, dtype_named

__all__ = ["Stream"]


class Stream:
    """One sequence of frames through a session. Several streams may share a session; each has its own past.

    A stream may be used from several threads, like a session: the frames run one after the other.

    Attributes:
        session: what computes the frames.
        inputs, outputs: name, shape and dtype of what a frame takes and gives. The leading axis of a video's frame is 1.
        frames: frames since the start or the last reset.
    """

    def __init__(self, session: Session, initial: Mapping[str, Array] | None = None) -> None:
        """Start with the states of `initial` (state's input name -> value); states that it does not name start as zeros.

        Raises:
            DataError: the artifact has no states; or see `reset`.
        """
        if not session.manifest.states:
            hint = "use `effc run` (Session.run), or compile it with the pass delta, which leaves a network as it is where no layer gains"
            raise DataError(f"the compiled model has no states, so there is nothing to stream: {hint}")
        self.session = session
        self.frames = 0
        self._lock = threading.Lock()
        self._sequence = session.new_sequence()
        self._activity = ActivityReader(session.manifest, self._sequence.block)
        self.inputs: tuple[TensorSpec, ...] = self._sequence.inputs
        self.outputs: tuple[TensorSpec, ...] = self._sequence.outputs
        resident = {state.input for state in session.manifest.states if state.resident}
        self._given = [spec for spec in session.inputs if spec.name in self._sequence.states and spec.name not in resident]
        self.reset(initial)

    def reset(self, initial: Mapping[str, Array] | None = None) -> None:
        """Forget the past: the next frame is computed whole. Raises DataError when `initial` names no state of the user's, or one of
        another shape or dtype; the states are as they were then."""
        initial = initial or {}
        _refuse(_misfits(initial, self._given, "state", complete=False))
        with self._lock:
            self._sequence.reset(initial)
            self.frames = 0

    def run(self, frame: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs of the next frame, as new arrays; the states stay inside.

        Args:
            frame: input name -> array of exactly the shape and dtype in `inputs`.

        Raises:
            DataError: the frame does not fit. The states are as they were.
            InternalError: the code failed. Where it keeps its states itself, the next frame is computed whole then.
        """
        _refuse(_misfits(frame, self.inputs, "input", complete=True))
        arrays = {name: np.asarray(array) for name, array in frame.items()}
        with self._lock:
            results = self._sequence.run(arrays)
            self.frames += 1
        return results

    def activity(self) -> FrameActivity:
        """How much of the last frame was computed. Raises DataError when there was none since the start or the last reset."""
        with self._lock:
            if not self.frames:
                raise DataError("no frame was run since the start or the last reset, so nothing was computed")
            self._sequence.fetch(self._activity.names)
            return self._activity.read()

    def states(self) -> dict[str, Array]:
        """Copies of the current states by their input names; resident states, which are effc's own, are not among them."""
        with self._lock:
            return {spec.name: self._sequence.states[spec.name].copy() for spec in self._given}

    def resident_states(self) -> dict[str, Array]:
        """Copies of effc's own states, for tests and debugging: in the layout of the code, with the counters and lists that it keeps."""
        with self._lock:
            block, plan, given = self._sequence.block, self.session.manifest.plan, {spec.name for spec in self._given}
            kept = {name: state.copy() for name, state in self._sequence.states.items() if name not in given}
            if block is not None and plan is not None:
                self._sequence.fetch(one.name for one in plan.in_room("state"))
                for one in plan.in_room("state"):
                    room = block[one.offset : one.offset + one.size]
                    dtype = dtype_named(one.dtype)
                    count = int(np.prod(one.shape, dtype=np.int64))
                    kept[one.name] = room[: count * dtype.itemsize].view(dtype).reshape(one.shape).copy()
        return kept


def _refuse(problems: list[Problem]) -> None:
    if problems:
        raise DataError("the frame or the states do not fit the compiled model", problems)


def _misfits(given: Mapping[str, Array], wanted: tuple[TensorSpec, ...] | list[TensorSpec], kind: str, *, complete: bool) -> list[Problem]:
    names = [spec.name for spec in wanted]
    unknown = [name for name in given if name not in names]
    problems = [Problem(f"{kind} {name!r}", "the name", "is unknown", f"known: {', '.join(names) or 'none'}") for name in unknown]
    for spec in wanted:
        if spec.name not in given:
            if complete:
                problems.append(Problem(f"{kind} {spec.name!r}", "nothing", "is missing", f"needed: {spec}"))
            continue
        array = np.asarray(given[spec.name])
        if array.shape != spec.shape or array.dtype != dtype_named(spec.dtype):
            what = f"{array.dtype}{list(array.shape)}"
            problems.append(Problem(f"{kind} {spec.name!r}", what, f"must be {spec.dtype}{list(spec.shape)}"))
    return problems
