"""How far the outputs of a streaming program are from the dense network's, and what leaving out whole frames would do for the same work.

Errors are relative to the largest magnitude that the dense output has in the whole clip, for every output by itself; the worst output
counts. The maximum and the 99.9th percentile are over all values of all frames. The mean is shown and never a bar: on a clip of a fixed
camera, showing the first frame's output for ever has a small one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Outputs", "Spread", "frame_errors", "held", "spread"]

Outputs = Sequence[Mapping[str, np.ndarray[Any, Any]]]  # of every frame of a clip, by name


@dataclass(frozen=True)
class Spread:
    """Relative errors over a clip; see the module docstring.

    Attributes:
        most: the largest.
        high: the 99.9th percentile.
        mean: the mean.
    """

    most: float
    high: float
    mean: float


def spread(got: Outputs, dense: Outputs) -> Spread:
    """The errors of a clip. NaN anywhere makes all three NaN, so no claim about them holds."""
    largest = _largest(dense)
    each = []
    for name, scale in largest.items():
        errors = np.concatenate([_relative(one[name], other[name], scale).ravel() for one, other in zip(got, dense, strict=True)])
        each.append((errors.max(), np.percentile(errors, 99.9), errors.mean(dtype=np.float64)))
    most, high, mean = np.max(np.array(each, np.float64), 0)  # NaN wins
    return Spread(float(most), float(high), float(mean))


def frame_errors(got: Outputs, dense: Outputs) -> list[float]:
    """The largest error of every frame."""
    largest = _largest(dense)
    return [
        float(np.max([_relative(one[name], other[name], scale).max() for name, scale in largest.items()]))
        for one, other in zip(got, dense, strict=True)
    ]


def held(dense: Outputs, share: float) -> Outputs:
    """What "compute every n-th frame, hold the rest" gives for this share of the work: n may be a fraction, so that the work is the same.

    Args:
        dense: the dense network's outputs.
        share: of the frames after the first that are computed, 0 to 1; as evenly spaced as whole frames allow.
    """
    found, last = [], 0
    for t in range(len(dense)):
        if np.floor(t * share + 1e-9) > np.floor((t - 1) * share + 1e-9):
            last = t
        found.append(dense[last])
    return found


def _largest(dense: Outputs) -> dict[str, float]:
    return {name: max(float(np.abs(frame[name]).max()) for frame in dense) or 1.0 for name in dense[0]}


def _relative(got: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any], scale: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    found: np.ndarray[Any, np.dtype[np.float32]] = (np.abs(got.astype(np.float64) - wanted) / scale).astype(np.float32)
    return found
