"""The plan: a flat list of kernel calls over one planned arena. It is the one executable form of a compiled program.

Lowering makes it, every backend emits it, the manifest stores it, the report draws it. All sizes are bytes, all offsets are aligned to
`ALIGNMENT` (those in the arena of C99 sources to 8), all shapes are concrete. In C99 sources a step's result may lie over what the step
reads for the last time, where its kernel reads every byte before it writes there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["ALIGNMENT", "EXTERNAL", "Buffer", "Launch", "Plan", "Room", "Step"]

ALIGNMENT = 64
EXTERNAL = "effc_"  # how the symbols of an extension's C functions begin, and those of effc's kernels do not

Room = Literal["input", "output", "parameter", "arena", "state"]


@dataclass(frozen=True)
class Buffer:
    """One tensor that kernels read or write.

    Attributes:
        name: unique in the plan; the user's name for inputs and outputs, the stored tensor's name for parameters.
        room: where it lives. Inputs and outputs are the caller's memory; parameters are one read-only block; the arena is scratch; states
            are one block that lasts from one call to the next (all zeros: nothing was seen yet).
        shape, dtype: concrete; numpy's dtype names.
        offset: byte offset inside its block: parameters, arena, states; 0 for inputs and outputs.
        size: bytes.
        first, last: index of the first step that writes and the last that reads it (arena); -1 elsewhere.
    """

    name: str
    room: Room
    shape: tuple[int, ...]
    dtype: str
    offset: int
    size: int
    first: int = -1
    last: int = -1


@dataclass(frozen=True)
class Launch:
    """One start of a device function on a GPU.

    Attributes:
        kernel: the function's symbol in the code.
        grid: blocks in each direction.
        block: threads of a block in each direction.
        shared: bytes of shared memory of a block, besides what the function declares itself.
        arguments: its pointers, as positions among the step's buffers (all reads, then all writes).
    """

    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared: int
    arguments: tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """One kernel call.

    Attributes:
        kernel: the function's symbol in the code.
        family: which kernel family or schedule it came from: `conv2d`, `matmul`, `generic`, ...
        reads, writes: buffer names in argument order (all reads, then all writes).
        sources: the user's names of the nodes that the step computes.
        ops: their operators.
        macs: multiply-accumulates of the step; bytes: bytes it must move.
        note: what a reader should know of the kernel: the algorithm and its measured error, the tile.
        active: for a step that computes only positions that may have changed: a state of int32 counters whose sum is how many it has
            computed in the last frame that was not computed whole; empty for other steps.
        positions: how many there are at all.
        launches: for a GPU, what the kernel consists of, in order; empty elsewhere.
    """

    kernel: str
    family: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    sources: tuple[str, ...]
    ops: tuple[str, ...]
    macs: int
    bytes: int
    note: str = ""
    active: str = ""
    positions: int = 0
    launches: tuple[Launch, ...] = ()

    @property
    def external(self) -> bool:
        """Whether a C function of an extension computes it; `family` is the extension's name."""
        return self.kernel.startswith(EXTERNAL)

    @property
    def described(self) -> str:
        """What it computes, in the user's names, and by which kernel: `Gemm_0, Relu_1; acme-npu: acme_matmul`."""
        kernel = f"{self.family}: {self.note}" if self.note else self.family
        return "; ".join(filter(None, (", ".join(self.sources or self.ops), kernel)))


@dataclass(frozen=True)
class Plan:
    """Buffers, steps and the sizes of the blocks. `entry` is the symbol that runs all steps in order.

    Calling convention of the entry (C, no TVM types):
        int32 entry(uint8 *arena, const uint8 *parameters, const void *input0, ..., void *output0, ..., int32 *status)
    It returns 0; `status` becomes 0, or the number of the step that failed, counted from 1 (the steps after it did not run).

    A streaming program has states: its entry takes `uint8 *states` behind the parameters. The first step compares the frame with the one
    before and sets the clock. Where that reads 1 then, the frame is computed whole, by the steps of `fresh`, else by those behind the first
    of `steps`. Both write the same states. A failed step of `fresh` has the number that it had if it stood behind `steps`.

    Attributes:
        state_bytes: of the block of states; 0 for a program without.
        fresh: the steps of a frame that is computed whole, behind the first one of `steps`; empty for a program without states.
        clock: the name of the state, one int32, that says how many frames ago one was computed whole, counted from 1.
    """

    entry: str
    buffers: tuple[Buffer, ...]
    steps: tuple[Step, ...]
    arena_bytes: int
    parameter_bytes: int
    state_bytes: int = 0
    fresh: tuple[Step, ...] = ()
    clock: str = ""

    def buffer(self, name: str) -> Buffer:
        return next(buffer for buffer in self.buffers if buffer.name == name)

    def in_room(self, room: Room) -> tuple[Buffer, ...]:
        """The buffers of one room, in declaration order (calling order for inputs and outputs)."""
        return tuple(buffer for buffer in self.buffers if buffer.room == room)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON; steps without launches have no such field."""
        data = asdict(self)
        for step in (*data["steps"], *data["fresh"]):
            if not step["launches"]:
                del step["launches"]
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Plan:
        def tuples(entry: Mapping[str, Any]) -> dict[str, Any]:
            return {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}

        def step(entry: Mapping[str, Any]) -> Step:
            launches = tuple(Launch(**tuples(launch)) for launch in entry.get("launches", ()))
            return Step(**{**tuples(entry), "launches": launches})

        return cls(
            entry=data["entry"],
            buffers=tuple(Buffer(**tuples(entry)) for entry in data["buffers"]),
            steps=tuple(step(entry) for entry in data["steps"]),
            arena_bytes=data["arena_bytes"],
            parameter_bytes=data["parameter_bytes"],
            state_bytes=data.get("state_bytes", 0),
            fresh=tuple(step(entry) for entry in data.get("fresh", ())),
            clock=data.get("clock", ""),
        )
