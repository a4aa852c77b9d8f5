"""Whether two readers of one ONNX file agree on its outputs.

Without quantisers the outputs are float sums in another order: the largest difference is held against the output's largest magnitude.
With quantisers it is counted in steps (`steps`), of which two are accepted: a value near a tie may be rounded to either side, once in the
quantiser itself and once more because a value before it was. Where an output comes from no stored quantiser, a step is that of an 8-bit
one which covers the output, a 127th of its largest magnitude: a step that is passed on through a layer becomes a smaller share of the
result, not a larger one. Many outputs that are off by half a step on average are no ties but a wrong zero point.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from effc.frontends.onnx.steps import Step, in_steps

__all__ = ["Agreement", "agreement", "rounds"]

Array = np.ndarray[Any, Any]

_TOLERANCE = 1e-3  # of the output's largest magnitude
_TOLERANCE_HALF = 2e-2  # float16 and bfloat16
_STEPS = 2.0
_MEAN_STEPS = 0.5
_MANY = 16  # elements whose mean says something
_SHARE = 0.02  # of indices, counts and decisions behind a rounding
_EIGHT_BITS = 127


@dataclass(frozen=True)
class Agreement:
    """How one output differs.

    Attributes:
        name: the output.
        size: the largest difference; infinity where the outputs cannot be compared.
        accepted: how large it may be.
        unit: what both are counted in: `of its largest magnitude`, `quantisation steps`, `of its elements`.
        why: what is wrong where `size` does not tell; empty otherwise.
    """

    name: str
    size: float
    accepted: float
    unit: str
    why: str = ""

    @property
    def holds(self) -> bool:
        return not self.why and self.size <= self.accepted

    def __str__(self) -> str:
        return self.why or f"differs by {self.size:.3g} {self.unit}, accepted: {self.accepted:g}"


def rounds(graph: Any) -> bool:
    """Whether a GraphProto quantises or rounds, in a branch or a loop, too: what depends on that may jump."""
    for node in graph.node:
        if "Quantize" in node.op_type or node.op_type.startswith("QLinear") or node.op_type == "Round":
            return True
        if any(rounds(inner) for attribute in node.attribute for inner in (attribute.g, *attribute.graphs)):
            return True
    return False


def agreement(got: Mapping[str, Array], want: Mapping[str, Array], rounding: bool, steps: Mapping[str, Step]) -> list[Agreement]:
    """Every output of `want` beside that of `got`."""
    return [_one(name, got[name], expected, rounding, steps.get(name)) for name, expected in want.items()]


def _one(name: str, got: Array, want: Array, rounding: bool, step: Step | None) -> Agreement:
    if got.shape != want.shape or got.dtype != want.dtype:
        why = f"is {got.dtype}{list(got.shape)}, onnxruntime says {want.dtype}{list(want.shape)}"
        return Agreement(name, float("inf"), 0.0, "of its elements", why)
    if want.dtype.kind in "biu" and want.dtype.name != "bfloat16" and step is None:
        share = float((got != want).mean()) if want.size else 0.0
        return Agreement(name, share, _SHARE if rounding else 0.0, "of its elements")
    wide = np.complex128 if want.dtype.kind == "c" else np.float64
    half = want.dtype.itemsize == 2 and want.dtype.kind not in "iu"
    got, want = got.astype(wide), want.astype(wide)
    finite = np.isfinite(want)
    if not np.array_equal(got[~finite], want[~finite], equal_nan=True):
        return Agreement(name, float("inf"), 0.0, "of its elements", "has infinities or NaNs at other places")
    got, want = got[finite], want[finite]
    magnitude = float(np.abs(want).max(initial=0.0)) or 1.0
    if not rounding:
        size = float(np.abs(got - want).max(initial=0.0)) / magnitude
        return Agreement(name, _sound(size), _TOLERANCE_HALF if half else _TOLERANCE, "of its largest magnitude")
    return _stepped(name, got, want, step or Step(magnitude / _EIGHT_BITS))


def _stepped(name: str, got: Array, want: Array, step: Step) -> Agreement:
    gaps = np.abs(in_steps(got, want, step))
    size, mean = _sound(float(gaps.max(initial=0.0))), float(gaps.mean()) if gaps.size else 0.0
    offset = gaps.size >= _MANY and not mean <= _MEAN_STEPS
    why = f"is off by {mean:.3g} quantisation steps on average: no matter of ties" if offset else ""
    return Agreement(name, size, _STEPS, "quantisation steps", why)


def _sound(size: float) -> float:
    """NaN, which compares false with every bound, is the largest difference."""
    return size if size == size else float("inf")
