"""A sequence of calls whose states stay on the device: only frames go there, and only results come back."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from effc.runtime.cuda.executor import CudaExecutor
from effc.runtime.executor import aligned_empty
from effc.runtime.manifest import Manifest
from effc.runtime.sequence import CallSequence
from effc.runtime.tensors import Array

__all__ = ["CudaSequence"]

_NOTHING: Mapping[str, Array] = MappingProxyType({})


class CudaSequence(CallSequence):
    """See `CallSequence`. The device has room for the states of each sequence; a frame's launches run on the plan's own places.

    A block of states is the device's, too: `block` is a copy that `fetch` brings up to date.
    """

    def __init__(self, manifest: Manifest, executor: CudaExecutor, lock: threading.Lock, *, resident_only: bool = False) -> None:
        """Begin from zeros.

        Args:
            manifest: of the code.
            executor: what runs it.
            lock: held while a frame runs: the executor is not to be entered twice.
            resident_only: see `CallSequence`.
        """
        self._executor, self._lock = executor, lock
        self._kept: dict[str, int] = {}
        self._plan = executor.plan
        self._forgotten = True  # the next frame is computed whole
        with lock:
            self._device = executor.take_states()
        copy = None
        if self._device is not None:
            weakref.finalize(self, executor.give_states, self._device).atexit = False
            copy = aligned_empty((self._plan.state_bytes,), "uint8")
            copy[:] = 0
        super().__init__(manifest, copy, executor.call, executor.alignment, resident_only=resident_only)

    @property
    def states(self) -> dict[str, Array]:
        """The current values, copied from the device."""
        with self._lock:
            for name, array in self._host.items():
                self._executor.driver.download(array, self._kept[name])
        return self._host

    @states.setter
    def states(self, arrays: dict[str, Array]) -> None:
        self._host = arrays
        with self._lock:
            self._kept = {name: self._executor.take_memory(array.nbytes) for name, array in arrays.items()}
        taken = [(address, arrays[name].nbytes) for name, address in self._kept.items()]
        weakref.finalize(self, self._executor.give_memory, taken).atexit = False

    def reset(self, initial: Mapping[str, Array] = _NOTHING) -> None:
        """See `CallSequence`."""
        self._forgotten = True
        with self._lock:
            for name, array in self._host.items():
                array[...] = initial.get(name, 0)
                self._executor.driver.upload(self._kept[name], array)
            self._executor.driver.synchronise()  # the arrays may change now

    def run(self, frame: Mapping[str, Array]) -> dict[str, Array]:
        """See `CallSequence`."""
        executor, driver = self._executor, self._executor.driver
        forgotten, self._forgotten = self._forgotten, True  # until it has succeeded
        results = {spec.name: aligned_empty(spec.shape, spec.dtype) for spec in self.outputs}
        with self._lock:
            for name, array in frame.items():
                driver.upload(executor.place(name), self._staged(name, array))
            for name, array in self._host.items():
                driver.copy(executor.place(name), self._kept[name], array.nbytes)
            if forgotten and self._device is not None:
                clock = self._plan.buffer(self._plan.clock)
                driver.clear(self._device.address + clock.offset, clock.size)
            executor.start(self._device)
            for name, array in results.items():
                driver.download(array, executor.place(name))
            driver.synchronise()  # a failure is raised here, before the states change
            for new, old in self._becomes.items():
                driver.copy(self._kept[old], executor.place(new), self._host[old].nbytes)
        self._forgotten = False
        return results

    def fetch(self, names: Iterable[str]) -> None:
        """See `CallSequence`."""
        if self.block is None or self._device is None:
            return
        with self._lock:
            for name in names:
                buffer = self._plan.buffer(name)
                part = self.block[buffer.offset : buffer.offset + buffer.size]
                self._executor.driver.download(part, self._device.address + buffer.offset)
