"""The plan's memory as reports draw it: tensors of the arena by the user's names."""

from __future__ import annotations

from collections.abc import Sequence

from effc.report import Block, Memory
from effc.runtime.plan import Buffer, Plan, Step
from effc.targets import C99, Target

__all__ = ["memory_of", "stored_bytes"]


def memory_of(plan: Plan, target: Target, states: Sequence[tuple[str, int]] = ()) -> Memory:
    """The arena over the steps, those of both kinds of frame, with the sizes of what lies beside it.

    Args:
        plan: of a lowered program.
        target: that it was lowered for.
        states: (name, bytes) of what one stream keeps.
    """
    steps = (*plan.steps, *plan.fresh)
    blocks = tuple(Block(_named(one, steps[one.first]), one.offset, one.size, one.first, one.last) for one in plan.in_room("arena"))
    return Memory(plan.arena_bytes, stored_bytes(plan, target), len(steps), blocks, tuple(states))


def stored_bytes(plan: Plan, target: Target) -> int:
    """What the weights take: arrays of their own in C sources; else one block, in which each begins at a multiple of 64 bytes."""
    return sum(one.size for one in plan.in_room("parameter")) if target.family == C99 else plan.parameter_bytes


def _named(buffer: Buffer, step: Step) -> str:
    """The last node that the writing step computes; what nothing reads later is the kernel's own."""
    name = step.sources[-1] if step.sources else buffer.name
    return f"scratch of {name}" if buffer.first == buffer.last else name
