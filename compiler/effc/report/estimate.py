"""What an estimate says of a program on a microcontroller, as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from effc.report.model import Memory

__all__ = ["EstimateLayer", "EstimateReport", "span_text"]


def span_text(ends: tuple[int, int]) -> str:
    """A range for people: `1,565 to 2,952`; one number where both ends are the same."""
    return f"{ends[0]:,}" if ends[0] == ends[1] else f"{ends[0]:,} to {ends[1]:,}"


@dataclass(frozen=True)
class EstimateLayer:
    """One step of the compiled program.

    Attributes:
        name, ops, family: the user's names of what it computes, its operators, the kernel family.
        macs: multiply-accumulates.
        weight_bytes: of the stored tensors that it reads. A tensor that several steps read counts in each.
        result_bytes: of what it writes, the kernel's own scratch memory aside.
        arena_bytes: of the arena, that hold something while it runs.
    """

    name: str
    ops: str
    family: str
    macs: int
    weight_bytes: int
    result_bytes: int
    arena_bytes: int


@dataclass(frozen=True)
class EstimateReport:
    """All of it; sizes in bytes. Ranges are (least, most).

    Attributes:
        title: the model. target: what it was lowered for.
        arena_bytes: scratch memory; exact, and more than `peak_bytes` where free bytes lie between tensors.
        peak_step: the step in which most of it holds something, peak_bytes at a time.
        weight_bytes, state_bytes: stored tensors, and what a stream keeps from call to call; exact.
        input_bytes, output_bytes: the caller's buffers; exact.
        macs: multiply-accumulates of a call; of a frame that is computed whole where a program is streaming.
        code_bytes: of the C sources without the weights, built for the target; a range.
        library_bytes: of the compiler's own arithmetic that they may need besides; a range.
        stack_bytes: a range.
        layers: in the order in which they run.
        notes: how the ranges came about, and what a user should know.
    """

    title: str
    target: str
    arena_bytes: int
    peak_step: int
    weight_bytes: int
    state_bytes: int
    input_bytes: int
    output_bytes: int
    macs: int
    code_bytes: tuple[int, int]
    library_bytes: tuple[int, int]
    stack_bytes: tuple[int, int]
    layers: tuple[EstimateLayer, ...]
    memory: Memory
    notes: tuple[str, ...] = ()

    @property
    def peak_bytes(self) -> int:
        return max((layer.arena_bytes for layer in self.layers), default=0)

    @property
    def ram_bytes(self) -> tuple[int, int]:
        """All of it: arena, states, stack, and the caller's inputs and outputs."""
        exact = self.arena_bytes + self.state_bytes + self.input_bytes + self.output_bytes
        return exact + self.stack_bytes[0], exact + self.stack_bytes[1]

    @property
    def flash_bytes(self) -> tuple[int, int]:
        """All of it: weights, code and the compiler's own arithmetic."""
        ends = zip(self.code_bytes, self.library_bytes, strict=True)
        least, most = (self.weight_bytes + sum(end) for end in ends)
        return least, most

    def as_json(self) -> dict[str, Any]:
        sums = {"ram_bytes": self.ram_bytes, "flash_bytes": self.flash_bytes, "peak_bytes": self.peak_bytes}
        return {**asdict(self), **sums}
