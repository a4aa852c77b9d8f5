"""What runs an artifact's code once: the plan through its C entry, or TVM's relax virtual machine for graphs that do not plan."""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from effc.errors import AlteredArtifactError, EffcError, ForeignCodeError, InternalError, MissingDependencyError
from effc.runtime.native import fresh_name, load_code
from effc.runtime.plan import ALIGNMENT, Plan
from effc.runtime.tensors import Array, dtype_named

__all__ = ["CODE", "Executor", "PlanExecutor", "VirtualMachineExecutor", "address", "aligned_empty", "new_states", "step_failure"]

CODE = "model.so"


def aligned_empty(shape: Sequence[int], dtype: str | np.dtype[Any]) -> Array:
    """An uninitialised C-contiguous array whose first element lies at a multiple of `ALIGNMENT`, a line of a cache."""
    kind = dtype_named(dtype) if isinstance(dtype, str) else dtype
    block = np.empty(math.prod(shape) * kind.itemsize + ALIGNMENT, np.uint8)
    return np.ndarray(shape, kind, block, -address(block) % ALIGNMENT)


def address(array: Array) -> int:
    """Where the first element lies."""
    return int(array.__array_interface__["data"][0])  # half the cost of array.ctypes


def new_states(plan: Plan) -> Array | None:
    """The block of a sequence of calls in which nothing was seen yet: zeros. None for a plan that keeps no states."""
    if not plan.state_bytes:
        return None
    states = aligned_empty((plan.state_bytes,), "uint8")
    states[:] = 0
    return states


def step_failure(plan: Plan, position: int, value: int | None = None) -> EffcError:
    """What to raise where a step's function does not return 0.

    Args:
        plan: of the code.
        position: of the step among `steps` and then `fresh`, counted from 0 as `effc inspect` does.
        value: what it returned, where that is known; the plan's entry tells the step alone.
    """
    steps = (*plan.steps, *plan.fresh)
    if not 0 <= position < len(steps):
        return InternalError(f"the compiled code failed with code {position + 1}, which is none of its steps")
    step, listed = steps[position], position < len(plan.steps)
    number = f"step {position}" if listed else f"step {position - len(plan.steps)} of those that compute a frame whole"
    said = "reported a failure" if value is None else f"returned {value}"
    if step.external:
        return ForeignCodeError(f"{number} ({step.described}) {said}: its function is of the extension {step.family}, not of effc")
    return InternalError(f"the compiled code failed at {number} ({step.described}), which {said}: its worker threads could not run")


class Executor(Protocol):
    """Runs one call; `inputs` in declaration order, each contiguous and aligned. Not to be entered by two threads at once.

    `states` is the block of a sequence of calls that `new_states` made; None where the code has none.
    """

    @property
    def alignment(self) -> int:
        """Inputs must lie at multiples of so many bytes, and of their elements' size."""

    @property
    def parameters(self) -> Mapping[str, Array]:
        """Writable views of what the code reads, by stored name."""

    def new_states(self) -> Array | None:
        """A block of states for a new sequence of calls; see `new_states`. None where the code has no such block."""

    def call(self, inputs: Sequence[Array], outputs: Sequence[Array], states: Array | None = None) -> None:
        """Read `inputs`, write `outputs`, change `states`."""

    def prepare(self, inputs: Sequence[Array], outputs: Sequence[Array], states: Array | None = None) -> Callable[[], object]:
        """A function that does `call(inputs, outputs, states)` with whatever is in these arrays then, at less cost each time."""


class PlanExecutor:
    """The plan's entry over one parameter block and one arena.

    Attributes:
        parameters: writable views of the parameter block, by stored name: what the kernels read.
    """

    def __init__(self, plan: Plan, inputs: Sequence[str], outputs: Sequence[str], tensors: Mapping[str, Array], code: Path) -> None:
        self._arena = aligned_empty((plan.arena_bytes,), "uint8")
        self._block = aligned_empty((plan.parameter_bytes,), "uint8")
        self._block[:] = 0
        self.parameters: dict[str, Array] = {}
        for buffer in plan.in_room("parameter"):
            stored = tensors[buffer.name]
            if stored.shape != buffer.shape or stored.dtype != dtype_named(buffer.dtype):
                raise AlteredArtifactError(f"parameter {buffer.name} is stored as {stored.dtype}{list(stored.shape)}, not as the plan says")
            room = self._block[buffer.offset : buffer.offset + stored.nbytes]
            self.parameters[buffer.name] = room.view(stored.dtype).reshape(buffer.shape)
            self.parameters[buffer.name][...] = stored
        self._plan = plan
        self._library = load_code(code)
        try:
            self._entry = getattr(self._library, plan.entry)
        except AttributeError as error:
            raise AlteredArtifactError(f"{code} has no function {plan.entry!r}, which the plan names") from error
        self._input_order = [list(inputs).index(buffer.name) for buffer in plan.in_room("input")]
        self._output_order = [list(outputs).index(buffer.name) for buffer in plan.in_room("output")]
        self._entry.argtypes = [ctypes.c_void_p] * (3 + (plan.state_bytes > 0) + len(inputs) + len(outputs))
        self._entry.restype = ctypes.c_int32
        self._blocks = (ctypes.c_void_p(address(self._arena)), ctypes.c_void_p(address(self._block)))

    @property
    def alignment(self) -> int:
        """1: of an argument, TVM's code generator for LLVM assumes the alignment of an element, and loads vectors from any such address."""
        return 1

    def new_states(self) -> Array | None:
        """See `Executor`."""
        return new_states(self._plan)

    def call(self, inputs: Sequence[Array], outputs: Sequence[Array], states: Array | None = None) -> None:
        """Run all steps. Raises ForeignCodeError where an extension's function reports a failure, InternalError where a kernel does."""
        self.prepare(inputs, outputs, states)()

    def prepare(self, inputs: Sequence[Array], outputs: Sequence[Array], states: Array | None = None) -> Callable[[], object]:
        """See `Executor`: to ask numpy where an array lies takes as long as a small kernel, and here it happens once."""
        if (states is None) != (self._plan.state_bytes == 0):
            raise InternalError("a block of states was given to code that has none, or none to code that needs one")
        arrays = [inputs[index] for index in self._input_order] + [outputs[index] for index in self._output_order]
        if states is not None:
            arrays.insert(0, states)
        status = ctypes.c_int32(0)
        pointers = (*self._blocks, *(ctypes.c_void_p(address(array)) for array in arrays), ctypes.byref(status))
        return functools.partial(self._enter, pointers, status, arrays)

    def _enter(self, pointers: Sequence[Any], status: ctypes.c_int32, _arrays: Sequence[Array]) -> None:
        """One call of the entry. `_arrays` are what the pointers point into: a prepared call keeps them alive."""
        self._entry(*pointers)
        code = status.value
        if code != 0:
            raise step_failure(self._plan, code - 1)


class VirtualMachineExecutor:
    """TVM's relax virtual machine: `main(inputs..., parameters...)`, for graphs with shapes that depend on data.

    `entry`, the manifest's `vm` field, is `{"function": name, "parameters": [stored names in argument order]}`.
    """

    def __init__(self, entry: Mapping[str, Any], outputs: Sequence[str], tensors: Mapping[str, Array], code: Path) -> None:
        if not set(entry.get("parameters", ())) <= tensors.keys() or "function" not in entry:
            raise AlteredArtifactError("the manifest's vm field does not fit the stored parameters")
        try:
            import tvm
            from tvm import relax
        except ImportError as error:
            raise MissingDependencyError(f"this artifact runs on TVM's virtual machine, but tvm cannot be imported: {error}") from error
        self._tensor: Any = tvm.runtime.tensor
        # The tensors share memory with these arrays, so a changed parameter is seen by the next call.
        self.parameters: dict[str, Array] = {}
        for name in entry["parameters"]:
            self.parameters[name] = aligned_empty(tensors[name].shape, tensors[name].dtype.name)
            self.parameters[name][...] = tensors[name]
        self._arguments = [self._shared(array) for array in self.parameters.values()]
        with fresh_name(code) as name:
            machine = relax.VirtualMachine(tvm.runtime.load_module(str(name)), tvm.cpu())
        self._function = machine[entry["function"]]
        self._names = list(outputs)

    @property
    def alignment(self) -> int:
        """What TVM's tensors have, and its virtual machine expects."""
        return ALIGNMENT

    def new_states(self) -> Array | None:
        """None: the machine's programs take their states as inputs."""
        return None

    def call(self, inputs: Sequence[Array], outputs: Sequence[Array], states: Array | None = None) -> None:
        """Run the function and copy its results. Raises InternalError when their shapes are not the declared ones."""
        result = self._function(*(self._tensor(array) for array in inputs), *self._arguments)
        results = [result] if hasattr(result, "numpy") else list(result)
        for name, value, output in zip(self._names, results, outputs, strict=True):
            array = value.numpy()
            if array.shape != output.shape:
                raise InternalError(f"output {name} has shape {list(array.shape)}, declared is {list(output.shape)}")
            output[...] = array

    def prepare(self, inputs: Sequence[Array], outputs: Sequence[Array], states: Array | None = None) -> Callable[[], object]:
        """See `Executor`; the machine takes new tensors each time, so nothing is saved."""
        return functools.partial(self.call, inputs, outputs, states)

    def _shared(self, array: Array) -> Any:
        import tvm

        return tvm.runtime.from_dlpack(array)
