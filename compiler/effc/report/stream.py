"""What a report of a stream says, as plain data: how much of each frame was computed, how long it took, how far off it is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["StreamLayer", "StreamReport"]


@dataclass(frozen=True)
class StreamLayer:
    """One step of the compiled program over all frames.

    Attributes:
        name, ops, family, note: what it computes, its operators, kernel family, and what the kernel's author says of it.
        macs: multiply-accumulates where it computes everything.
        positions: output positions; 0 for a step that always computes all of them.
        share: mean share of positions computed, over the frames that were not computed whole; None where there were none.
    """

    name: str
    ops: str
    family: str
    note: str
    macs: int
    positions: int
    share: float | None

    @property
    def is_dense(self) -> bool:
        """Whether it always computes everything."""
        return self.positions == 0


@dataclass(frozen=True)
class StreamReport:
    """All of it; the lists have one entry for each of T frames.

    Attributes:
        title: of the page. facts: (label, value) for its head. notes: sentences that a user should read.
        shares: of the multiply-accumulates that were computed, 0 to 1.
        whole: whether the frame was computed whole: the first, one after a reset, a scene cut, a refresh.
        milliseconds: of each frame. whole_milliseconds: of the same frames, all computed whole; empty where that was not measured.
        errors: largest difference from outputs of frames computed whole, relative to their largest magnitude; empty where not measured.
        usual_errors: the same for the 99.9th percentile of the differences.
        layers: steps of the compiled program, in order.
        states: (name, bytes) of what is kept from frame to frame.
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    shares: tuple[float, ...]
    whole: tuple[bool, ...]
    milliseconds: tuple[float, ...]
    whole_milliseconds: tuple[float, ...] = ()
    errors: tuple[float, ...] = ()
    usual_errors: tuple[float, ...] = ()
    layers: tuple[StreamLayer, ...] = ()
    states: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return asdict(self)
