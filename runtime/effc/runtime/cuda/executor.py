"""Runs the plan of an artifact on a GPU: parameters, arena, inputs, outputs and states all have their place there.

A call copies the inputs to the device, starts all launches of the plan as one CUDA graph, which was recorded once, and copies the outputs
back. States that a stream passes from frame to frame stay on the device.

Code with a block of states decides in its first step how a frame is computed. The host waits for that step and reads the clock, once a
frame, and starts one of two graphs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from effc.errors import AlteredArtifactError, InternalError
from effc.runtime.cuda.driver import Driver
from effc.runtime.plan import Buffer, Plan, Step
from effc.runtime.tensors import Array, dtype_named

__all__ = ["CUBIN", "SOURCE", "CudaExecutor", "DeviceStates"]

CUBIN = "model.cubin"
SOURCE = "model.cu"  # what the cubin was compiled from, for readers


class _Parameters(Mapping[str, Array]):
    """Parameters by stored name, as arrays that may be written: what is on the device follows before the next call.

    Only those that were asked for are looked at then.
    """

    def __init__(self, arrays: dict[str, Array]) -> None:
        self._arrays = arrays
        self._shown: dict[str, Array] = {}  # what the device has of those that somebody may have changed

    def __getitem__(self, name: str) -> Array:
        array = self._arrays[name]
        if name not in self._shown:
            self._shown[name] = array.copy()
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def changed(self) -> Iterator[tuple[str, Array]]:
        """Those whose bytes are not those on the device; they are taken for copied then."""
        for name, known in self._shown.items():
            array = self._arrays[name]
            if not np.array_equal(_bytes(array), _bytes(known)):
                known[...] = array
                yield name, array


@dataclass(frozen=True)
class DeviceStates:
    """A block of states on the device, and the launches that were recorded for it.

    Attributes:
        address: where it begins.
        first: the first step. moving, fresh: the others of a frame of which only what moved is computed, and of one that is computed whole.
    """

    address: int
    first: Any
    moving: Any
    fresh: Any


class CudaExecutor:
    """The plan on a device; see `effc.runtime.executor.Executor`.

    Attributes:
        parameters: writable, by stored name. The device has what they hold at the next call.
    """

    def __init__(
        self, plan: Plan, inputs: Sequence[str], outputs: Sequence[str], tensors: Mapping[str, Array], code: bytes, driver: Driver
    ) -> None:
        """Copy code and parameters to the device, and record the launches.

        Args:
            plan: with launches.
            inputs, outputs: names in calling order.
            tensors: stored ones by name.
            code: a cubin.
            driver: the device.
        """
        self._driver = driver
        self._unused: list[DeviceStates] = []
        self._memory: dict[int, list[int]] = {}
        driver.load(code, [launch for step in (*plan.steps, *plan.fresh) for launch in step.launches])
        self._places = self._laid_out(plan)
        self._states = {buffer.name for buffer in plan.in_room("state")}
        arrays = {}
        for buffer in plan.in_room("parameter"):
            stored = tensors[buffer.name]
            if stored.shape != buffer.shape or stored.dtype != dtype_named(buffer.dtype):
                raise AlteredArtifactError(f"parameter {buffer.name} is stored as {stored.dtype}{list(stored.shape)}, not as the plan says")
            arrays[buffer.name] = np.array(stored, order="C")
            driver.upload(self._places[buffer.name], arrays[buffer.name])
        self._parameters = _Parameters(arrays)
        self.parameters: Mapping[str, Array] = self._parameters
        self._inputs, self._outputs = list(inputs), list(outputs)
        self._plan = plan
        self._recorded = None if plan.state_bytes else driver.record(functools.partial(self._launch_all, plan.steps))
        driver.synchronise()

    @property
    def alignment(self) -> int:
        """1: arrays are copied."""
        return 1

    def new_states(self) -> Array | None:
        """None: blocks of states are on the device; see `take_states`."""
        return None

    def take_states(self) -> DeviceStates | None:
        """A block of states for one sequence, with any content; None for code that has none. A clock of zero makes it new."""
        plan, driver = self._plan, self._driver
        if not plan.state_bytes:
            return None
        if self._unused:
            return self._unused.pop()
        address = driver.allocate(plan.state_bytes)
        parts = (plan.steps[:1], plan.steps[1:], plan.fresh)
        return DeviceStates(address, *(driver.record(functools.partial(self._launch_all, steps, address)) for steps in parts))

    def give_states(self, states: DeviceStates) -> None:
        """The block is no longer used: the next sequence may have it."""
        self._unused.append(states)

    def take_memory(self, size: int) -> int:
        """Memory of the device for one sequence, with any content."""
        unused = self._memory.setdefault(size, [])
        return unused.pop() if unused else self._driver.allocate(size)

    def give_memory(self, taken: Sequence[tuple[int, int]]) -> None:
        """(address, size) of memory that is no longer used: the next sequence may have it."""
        for address, size in taken:
            self._memory[size].append(address)

    def place(self, name: str) -> int:
        """Where an input or output lies on the device."""
        return self._places[name]

    @property
    def driver(self) -> Driver:
        """The device."""
        return self._driver

    @property
    def plan(self) -> Plan:
        """What it runs."""
        return self._plan

    def call(self, inputs: Sequence[Array], outputs: Sequence[Array], states: Array | None = None) -> None:
        """Copy there, run, copy back. Raises InternalError where the device reports a failure."""
        if states is not None:
            raise InternalError("a block of states was given to code that has none")
        for name, array in zip(self._inputs, inputs, strict=True):
            self._driver.upload(self._places[name], array)
        self.start()
        for name, array in zip(self._outputs, outputs, strict=True):
            self._driver.download(array, self._places[name])

    def start(self, states: DeviceStates | None = None) -> None:
        """Run on what lies on the device."""
        if (states is None) != (self._plan.state_bytes == 0):
            raise InternalError("code that keeps states runs in a sequence of calls, which has a block of them, and other code without one")
        for name, array in self._parameters.changed():
            self._driver.upload(self._places[name], array)
        if states is None:
            self._driver.replay(self._recorded)
            return
        clock = np.empty(1, np.int32)
        self._driver.replay(states.first)
        self._driver.download(clock, states.address + self._plan.buffer(self._plan.clock).offset)
        self._driver.replay(states.fresh if clock[0] == 1 else states.moving)

    def prepare(self, inputs: Sequence[Array], outputs: Sequence[Array], states: Array | None = None) -> Callable[[], object]:
        """See `Executor`."""
        return functools.partial(self.call, inputs, outputs, states)

    def _laid_out(self, plan: Plan) -> dict[str, int]:
        """The address of every buffer; of a state, its distance from the beginning of a block."""
        blocks = {"arena": self._driver.allocate(plan.arena_bytes), "parameter": self._driver.allocate(plan.parameter_bytes)}

        def address(buffer: Buffer) -> int:
            if buffer.room in blocks:
                return blocks[buffer.room] + buffer.offset
            if buffer.room == "state":
                return buffer.offset
            return self._driver.allocate(buffer.size)

        return {buffer.name: address(buffer) for buffer in plan.buffers}

    def _launch_all(self, steps: Sequence[Step], states: int = 0) -> None:
        for step in steps:
            addresses = [self._places[name] + states * (name in self._states) for name in (*step.reads, *step.writes)]
            for launch in step.launches:
                arguments = [addresses[position] for position in launch.arguments]
                self._driver.launch(launch.kernel, launch.grid, launch.block, launch.shared, arguments)


def _bytes(array: Array) -> Array:
    return array.reshape(-1).view(np.uint8)
