"""What quality costs: the points that a search under `max_drop` has measured, kept for the report."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Curve", "CurvePoint"]


@dataclass(frozen=True)
class CurvePoint:
    """One program that was tried.

    Attributes:
        level: the share of zeros that was asked for, in [0, 1]; a weighted mean over the sites where they differ.
        density: the share of non-zeros that was measured on the selection data, in [0, 1]; the same weighted mean.
        value: the metric there.
        uniform: True where every site was asked for the same level (or, for a greedy allocation, every block).
        kept: True for the one program that the pass has handed on.
    """

    level: float
    density: float
    value: float
    uniform: bool
    kept: bool = False


@dataclass(frozen=True)
class Curve:
    """Quality against sparsity, as one pass has measured it on the selection part of `--data`.

    Attributes:
        pass_name: whose search it was.
        metric: one of `effc.evaluate.METRICS`.
        before: the metric of the program before the pass.
        max_drop: the largest loss of it that was allowed.
        samples: size of the selection data.
        points: by rising level; the first one is the program before the pass.
    """

    pass_name: str
    metric: str
    before: float
    max_drop: float
    samples: int
    points: tuple[CurvePoint, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)
