"""What a network on a clip showed: errors of its outputs, and which share of each layer had to be computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

__all__ = ["Measured", "Part"]

Array = np.ndarray[Any, Any]
_POWER = 3


@dataclass(frozen=True)
class Measured:
    """What a run showed.

    Attributes:
        errors: the largest difference to the dense outputs, relative to the largest magnitude of each over the clip: (frames, outputs).
        powers: the mean over the elements of the third power of that difference, likewise.
        active: share of the pixels of a layer that had to be computed, by the name of its site: mean over the frames that were not whole.
        moved: share of the pixels of a site that moved, likewise; the frame's, too.
        whole: how many frames were computed whole, beside the first one.
        sparse: how many were not.
    """

    errors: Array
    powers: Array
    active: Mapping[str, float]
    moved: Mapping[str, float]
    whole: int
    sparse: int

    @property
    def error(self) -> float:
        """The largest of all."""
        return float(self.errors.max(initial=0.0))

    @property
    def each(self) -> Array:
        """Of each output, the root of the mean third power over elements and frames: large errors count, single ones do not decide."""
        means: Array = self.powers.mean(0) ** (1 / _POWER)
        return means


class Part:
    """What some frames show, added up while they are computed.

    Attributes:
        errors, powers: as in `Measured`.
        whole: which of the frames are computed whole.
        active, moved: sums over the frames that are not whole, by the names of sites.
    """

    def __init__(self, frames: int, outputs: int) -> None:
        """Begin with nothing seen in so many frames."""
        self.errors, self.powers = np.zeros((frames, outputs)), np.zeros((frames, outputs))
        self.whole: list[bool] = []
        self.active: dict[str, float] = {}
        self.moved: dict[str, float] = {}

    def copy(self) -> Part:
        """What was seen so far, to go on with."""
        other = Part(*self.errors.shape)
        other.whole, other.active, other.moved = list(self.whole), dict(self.active), dict(self.moved)
        return other

    def share(self, mask: Tensor | None) -> float:
        """The sum over the frames that are not whole of the share of pixels that a mask, (T, 1, H, W), marks; None marks all."""
        partly = [t for t, whole in enumerate(self.whole) if not whole]
        return float(len(partly)) if mask is None else float(mask[partly].float().mean((1, 2, 3)).sum())

    def compare(self, output: int, got: Tensor, want: Tensor, scale: float) -> None:
        """Note how far an output, the frames in front, is from the dense one, relative to `scale`."""
        apart = (got.double() - want.double()).abs().reshape(len(self.errors), -1).nan_to_num(nan=np.inf) / scale
        self.errors[:, output] = apart.amax(1).numpy()
        self.powers[:, output] = apart.pow_(_POWER).mean(1).numpy()

    @classmethod
    def together(cls, parts: Sequence[Part]) -> Measured:
        """All parts of a clip."""
        whole = sum(sum(part.whole) for part in parts)
        sparse = sum(len(part.whole) for part in parts) - whole

        def mean(sums: Sequence[Mapping[str, float]]) -> dict[str, float]:
            return {name: sum(one[name] for one in sums) / max(1, sparse) for name in sums[0]}

        errors, powers = (np.concatenate(arrays) for arrays in ([part.errors for part in parts], [part.powers for part in parts]))
        active, moved = mean([part.active for part in parts]), mean([part.moved for part in parts])
        return Measured(errors, powers, active, moved, whole - 1, sparse)
