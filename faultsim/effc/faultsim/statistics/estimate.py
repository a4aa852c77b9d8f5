"""A number with its interval."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Estimate"]


@dataclass(frozen=True)
class Estimate:
    """An estimated share or mean.

    Attributes:
        value: the estimate; for shares in [0, 1].
        low, high: ends of the two-sided interval.
        level: its confidence, 0.95 for 95 %.
        units: independent units behind it (injections, never inferences).
        method: how the interval was made, in the field's words: `Clopper-Pearson`, `Student's t over injections`, ...
    """

    value: float
    low: float
    high: float
    level: float
    units: int
    method: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)
