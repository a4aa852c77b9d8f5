"""How much of a frame was computed: read from the counters that the code leaves in the block of states."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from effc.runtime.manifest import Manifest
from effc.runtime.plan import Step
from effc.runtime.tensors import Array, dtype_named

__all__ = ["ActivityReader", "FrameActivity", "StepActivity"]


@dataclass(frozen=True)
class StepActivity:
    """One step of the plan in one frame.

    Attributes:
        name: the user's names of what it computes. ops, family: its operators and kernel family.
        macs: multiply-accumulates of the step where all positions are computed.
        computed, positions: output positions that were computed, and all of them; both 0 for a step that has no list of positions.
    """

    name: str
    ops: str
    family: str
    macs: int
    computed: int
    positions: int

    @property
    def is_sparse(self) -> bool:
        """Whether the step can leave positions out."""
        return self.positions > 0

    @property
    def share(self) -> float:
        """Of its positions that were computed; 1 for a step that always computes all."""
        return self.computed / self.positions if self.positions else 1.0


@dataclass(frozen=True, eq=False)
class FrameActivity:
    """What was computed for one frame.

    Attributes:
        whole: the frame was computed whole: the first one, one after a reset, a scene cut, a refresh; always, where the code has no lists.
        share: of the multiply-accumulates of a whole frame, 0 to 1. Comparing, copying and lists are not in it.
        computed: int64, positions of each step of the plan; see `steps`.
    """

    whole: bool
    share: float
    computed: Array
    plan: tuple[Step, ...]

    @functools.cached_property
    def steps(self) -> tuple[StepActivity, ...]:
        """All steps of the plan, in order; none for code that runs on the virtual machine."""
        return tuple(
            StepActivity(", ".join(step.sources) or step.kernel, " + ".join(step.ops), step.family, step.macs, int(count), _listed(step))
            for step, count in zip(self.plan, self.computed, strict=True)
        )


class ActivityReader:
    """Reads the activity of the last frame out of one block of states.

    Attributes:
        names: the states that it reads.
    """

    def __init__(self, manifest: Manifest, block: Array | None) -> None:
        self._plan = manifest.plan.steps if manifest.plan is not None else ()
        self._positions = np.array([_listed(step) for step in self._plan], np.int64)
        macs = np.array([step.macs for step in self._plan], np.float64)
        self._weights = macs / (macs.sum() or 1.0)
        self._words: Array | None = None
        self.names: tuple[str, ...] = ()
        if block is None or manifest.plan is None:
            return
        # One gather and one sum over all counters: a sum for each step would take as long as a small frame.
        self._words = block[: len(block) // 4 * 4].view(np.int32)
        buffers = {buffer.name: buffer for buffer in manifest.plan.in_room("state")}
        places = {index: buffers[step.active] for index, step in enumerate(self._plan) if step.active}
        counters = [np.arange(math.prod(one.shape)) + one.offset // dtype_named("int32").itemsize for one in places.values()]
        self._sparse = np.array(list(places), np.int64)
        self._counters = np.concatenate(counters) if counters else np.empty(0, np.int64)
        self._starts = np.cumsum([0, *map(len, counters[:-1])]) if counters else np.empty(0, np.int64)
        self._clock = buffers[manifest.plan.clock].offset // 4
        self.names = (manifest.plan.clock, *(one.name for one in places.values()))

    def read(self) -> FrameActivity:
        """Of the frame that was computed last."""
        words = self._words
        if words is None or words[self._clock] == 1:
            return FrameActivity(True, 1.0, self._positions, self._plan)
        computed, shares = self._positions.copy(), np.ones(len(self._plan))
        if len(self._sparse):
            computed[self._sparse] = np.add.reduceat(words[self._counters], self._starts)
            shares[self._sparse] = computed[self._sparse] / self._positions[self._sparse]
        share = float(self._weights @ shares) if self._weights.any() else 1.0
        return FrameActivity(False, share, computed, self._plan)


def _listed(step: Step) -> int:
    """Positions of a step that may leave some out; 0 for others."""
    return step.positions if step.active else 0
