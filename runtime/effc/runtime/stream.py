"""Run a streaming program frame by frame: its states stay inside, in two buffers each that change places after every frame."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from effc.errors import DataError, Problem
from effc.runtime.executor import aligned_empty
from effc.runtime.session import Session
from effc.runtime.tensors import Array, dtype_named

__all__ = ["Stream"]


class Stream:
    """One sequence of frames through a session. Several streams may share a session.

    Attributes:
        session: what computes the frames.
        frames: frames since the start or the last reset.
    """

    def __init__(self, session: Session, initial: Mapping[str, Array] | None = None) -> None:
        """Start with the states of `initial` (state's input name -> value); states that it does not name start as zeros."""
        if not session.manifest.states:
            raise DataError("the compiled model has no states, so there is nothing to stream; use Session.run")
        self.session = session
        self.frames = 0
        self._new_name = {state.input: state.output for state in session.manifest.states}
        self._inputs = [spec for spec in session.inputs if spec.name not in self._new_name]
        self._outputs = [spec for spec in session.outputs if spec.name not in self._new_name.values()]
        specs = {spec.name: spec for spec in session.inputs}
        self._old = {name: aligned_empty(specs[name].shape, specs[name].dtype) for name in self._new_name}
        self._new = {name: aligned_empty(specs[name].shape, specs[name].dtype) for name in self._new_name}
        self._frame = {spec.name: aligned_empty(spec.shape, spec.dtype) for spec in self._inputs}
        self.reset(initial)

    def reset(self, initial: Mapping[str, Array] | None = None) -> None:
        """Forget the past. Raises DataError when `initial` names no state or has another shape or dtype."""
        initial = initial or {}
        self._refuse(_misfits(initial, self._old, "state", complete=False))
        for name, state in self._old.items():
            state[...] = initial.get(name, 0)
        self.frames = 0

    def run(self, frame: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs of the next frame, as new arrays; the states stay inside. Raises DataError, and the states are as they were."""
        self._refuse(_misfits(frame, self._frame, "input", complete=True))
        for name, buffer in self._frame.items():
            buffer[...] = frame[name]
        results = {spec.name: aligned_empty(spec.shape, spec.dtype) for spec in self._outputs}
        written = results | {new: self._new[old] for old, new in self._new_name.items()}
        read = self._frame | self._old
        self.session.call_into([read[spec.name] for spec in self.session.inputs], [written[spec.name] for spec in self.session.outputs])
        self._old, self._new = self._new, self._old
        self.frames += 1
        return results

    def states(self) -> dict[str, Array]:
        """Copies of the current states by their input names."""
        return {name: state.copy() for name, state in self._old.items()}

    @staticmethod
    def _refuse(problems: list[Problem]) -> None:
        if problems:
            raise DataError("the frame or the states do not fit the compiled model", problems)


def _misfits(given: Mapping[str, Array], wanted: Mapping[str, Array], kind: str, *, complete: bool) -> list[Problem]:
    unknown = [name for name in given if name not in wanted]
    problems = [Problem(f"{kind} {name!r}", "the name", "is unknown", f"known: {', '.join(wanted)}") for name in unknown]
    for name, buffer in wanted.items():
        if name not in given:
            if complete:
                problems.append(Problem(f"{kind} {name!r}", "nothing", "is missing"))
            continue
        array = np.asarray(given[name])
        if array.shape != buffer.shape or array.dtype != dtype_named(buffer.dtype.name):
            problems.append(Problem(f"{kind} {name!r}", f"{array.dtype}{list(array.shape)}", f"must be {buffer.dtype}{list(buffer.shape)}"))
    return problems
