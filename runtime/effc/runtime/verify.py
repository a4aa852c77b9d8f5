"""Compare outputs with a reference, and an artifact with its own golden vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from effc.runtime.session import Session
from effc.runtime.tensors import Array

__all__ = ["TOLERANCE", "Difference", "Verification", "compare", "verify_golden"]

TOLERANCE = 1e-4  # of the output's largest magnitude: float32 sums in another order
# What that becomes for other types: about five rounding units of float16 (9.8e-4) and of bfloat16 (7.8e-3), whose sums are made in float32
# and rounded once; 1e-9 for float64.
_COARSER = {"float16": 50.0, "bfloat16": 400.0, "float64": 1e-5}


@dataclass(frozen=True)
class Difference:
    """How one output differs from its reference.

    Attributes:
        name: the output.
        relative: largest absolute difference divided by the reference's largest finite magnitude; for integers and booleans, and where the
            reference is all zero, the largest absolute difference itself. Infinity when shapes, dtypes, or NaN and infinities differ.
        index: where the largest difference is; None when nothing differs.
        reason: why `relative` is infinite; empty otherwise.
        dtype: the reference's, which decides how much a tolerance allows.
    """

    name: str
    relative: float
    index: tuple[int, ...] | None
    reason: str = ""
    dtype: str = "float32"

    def within(self, tolerance: float) -> bool:
        """Whether it is small enough, for a tolerance that is meant for float32."""
        return self.relative <= tolerance * _COARSER.get(self.dtype, 1.0)


@dataclass(frozen=True)
class Verification:
    """Differences of all outputs and the tolerance, for float32, they are held against (`Difference.within`)."""

    differences: tuple[Difference, ...]
    tolerance: float

    @property
    def worst(self) -> float:
        """The largest of the relative differences."""
        return max((difference.relative for difference in self.differences), default=0.0)

    @property
    def passed(self) -> bool:
        """Whether every output is within the tolerance."""
        return all(difference.within(self.tolerance) for difference in self.differences)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON; an infinite difference reads as null."""
        rows = [asdict(entry) | {"relative": entry.relative if np.isfinite(entry.relative) else None} for entry in self.differences]
        return {"passed": self.passed, "tolerance": self.tolerance, "outputs": rows}


def compare(outputs: Mapping[str, Array], reference: Mapping[str, Array], tolerance: float = TOLERANCE) -> Verification:
    """The differences of all outputs that either side has."""
    names = list(reference) + [name for name in outputs if name not in reference]
    return Verification(tuple(_difference(name, outputs.get(name), reference.get(name)) for name in names), tolerance)


def verify_golden(session: Session, tolerance: float = TOLERANCE) -> Verification:
    """Run the artifact's golden inputs and compare with its golden outputs, which the final program computed when it was compiled."""
    inputs, expected = session.artifact.golden()
    return compare(session.run(inputs), expected, tolerance)


def _difference(name: str, output: Array | None, reference: Array | None) -> Difference:
    if output is None or reference is None:
        return Difference(name, float("inf"), None, "there is no such output" if output is None else "the reference has no such output")
    if output.shape != reference.shape or output.dtype != reference.dtype:
        what = f"{output.dtype}{list(output.shape)} against {reference.dtype}{list(reference.shape)}"
        return Difference(name, float("inf"), None, what)
    if output.size == 0:
        return Difference(name, 0.0, None)
    inexact = np.issubdtype(reference.dtype, np.inexact) or reference.dtype.name == "bfloat16"
    if not inexact:
        # Python integers: int64 differences may not fit into int64
        gap = np.abs(output.astype(object) - reference.astype(object)) if (output != reference).any() else np.zeros(output.shape)
        scale = 1.0
    else:
        left, right = output.astype(np.float64), reference.astype(np.float64)
        finite = np.isfinite(right)
        strange = ~(finite | (left == right) | (np.isnan(left) & np.isnan(right))) | (finite & ~np.isfinite(left))
        if strange.any():
            return Difference(name, float("inf"), _first(strange), "NaN or infinity on one side only")
        gap = np.abs(np.where(finite, left, 0) - np.where(finite, right, 0))
        scale = float(np.abs(np.where(finite, right, 0)).max()) or 1.0
    place = np.unravel_index(int(np.argmax(gap)), gap.shape)
    largest = float(gap[place])
    where = tuple(int(i) for i in place) if largest else None
    return Difference(name, largest / scale, where, dtype=reference.dtype.name)


def _first(mask: Array) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argwhere(mask)[0])
