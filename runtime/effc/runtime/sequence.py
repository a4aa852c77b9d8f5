"""What a sequence of calls keeps from one call to the next. `Stream` and `Session.run` are built on it; it checks nothing.

Resident states of a sparse program live in one block that the code changes in place, nothing of it is copied per frame. All other states
are inputs and outputs of the code: two buffers each, which change places after every call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

from effc.runtime.executor import aligned_empty
from effc.runtime.manifest import Manifest
from effc.runtime.staging import Staging
from effc.runtime.tensors import Array

__all__ = ["CallSequence"]

Call = Callable[[Sequence[Array], Sequence[Array], "Array | None"], None]
_NOTHING: Mapping[str, Array] = MappingProxyType({})


class CallSequence:
    """One sequence of calls. Not to be entered by two threads at once.

    Attributes:
        block: the states that the code keeps itself, bytes; None where it has none.
        states: the current values of the kept states that are passed in and out, by the names of their inputs.
        inputs, outputs: what a call takes and gives besides kept states.
    """

    def __init__(self, manifest: Manifest, block: Array | None, call: Call, alignment: int, *, resident_only: bool = False) -> None:
        """Begin from zeros.

        Args:
            manifest: of the code.
            block: from the executor's `new_states`.
            call: runs the code on inputs, outputs and the block.
            alignment: the executor's, of inputs.
            resident_only: do not keep states that a user declared; they are inputs and outputs like others then.
        """
        passed = [state for state in manifest.passed_states if state.resident or not resident_only]
        self.block = block
        self._clock: Array | None = None
        if block is not None and manifest.plan is not None:
            place = manifest.plan.buffer(manifest.plan.clock)
            self._clock = block[place.offset : place.offset + place.size]
        self.inputs = tuple(spec for spec in manifest.code_inputs if spec.name not in {state.input for state in passed})
        self.outputs = tuple(spec for spec in manifest.code_outputs if spec.name not in {state.output for state in passed})
        self._call = call
        self._input_names = [spec.name for spec in manifest.code_inputs]
        self._output_names = [spec.name for spec in manifest.code_outputs]
        self._becomes = {state.output: state.input for state in passed}
        specs = {spec.name: spec for spec in manifest.inputs}
        self.states = {state.input: aligned_empty(specs[state.input].shape, specs[state.input].dtype) for state in passed}
        self._next = {state.output: aligned_empty(specs[state.input].shape, specs[state.input].dtype) for state in passed}
        self._staged = Staging(alignment)
        self.reset()

    def reset(self, initial: Mapping[str, Array] = _NOTHING) -> None:
        """Forget the past. States that are passed become zeros, or their values in `initial`. Of the block that is the clock alone: the
        next frame is computed whole then, which writes all other states, as it does at a refresh."""
        if self._clock is not None:
            self._clock[:] = 0
        for name, state in self.states.items():
            state[...] = initial.get(name, 0)

    def run(self, frame: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs for the next frame, as new arrays.

        Where the code fails, states that are passed are as they were. Those in the block are half written then: the next frame is
        computed whole, as after a reset.
        """
        results = {spec.name: aligned_empty(spec.shape, spec.dtype) for spec in self.outputs}
        read = {name: self._staged(name, array) for name, array in frame.items()} | self.states
        written = results | self._next
        try:
            self._call([read[name] for name in self._input_names], [written[name] for name in self._output_names], self.block)
        except BaseException:
            if self._clock is not None:
                self._clock[:] = 0
            raise
        for new, old in self._becomes.items():
            self.states[old], self._next[new] = self._next[new], self.states[old]
        return results

    def fetch(self, names: Iterable[str]) -> None:
        """Make `block` hold what some of its states are now. It does, but where the states are on another device."""
