"""How far a pass moved the outputs, and on which samples that was measured.

The golden inputs come from the data that passes fit on, which a pass such as ranger cannot move: its bounds hold on them by construction.
So a pass that may change outputs is measured on some of the held-out samples where there are any. No pass sees what comes of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from effc.compiler.golden import Checks, run_program
from effc.compiler.inputs import Inputs
from effc.errors import counted
from effc.ir import Program
from effc.passes import Pass
from effc.runtime.verify import compare

__all__ = ["Movement", "movement"]

_SAMPLES = 64  # of the held-out data: as many as one call of the gate's evaluation takes


@dataclass(frozen=True)
class Movement:
    """`worst` is the largest change of an output relative to its largest magnitude; `on` says on what: `64 samples of --eval`."""

    worst: float
    on: str


def movement(applied: Pass, before: Program, after: Program, checks: Checks, given: Inputs) -> Movement:
    """The movement by a pass that `checks` has just compared."""
    if not applied.exact and given.held_out is not None:
        part = next(given.held_out.batches(_SAMPLES))
        difference = compare(run_program(after, part.inputs), run_program(before, part.inputs))
        return Movement(difference.worst, f"{counted(len(part), 'sample')} of --eval")
    count = max((array.shape[0] for array in checks.inputs.values() if array.ndim), default=1)
    on = f"{counted(count, 'sample')} of --data" if given.data is not None else counted(count, "random sample")
    return Movement(checks.differences[-1].worst, on)
