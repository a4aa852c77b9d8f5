"""Faces in the outputs of UltraFace, and how far two sets of them agree.

Outputs are scores (1, P, 2), background and face, and boxes (1, P, 4), left, top, right and bottom as shares of the picture, for P = 4420
places. A detection is a place whose score is above `SCORE` and whose box no better detection overlaps by more than `OVERLAP` (non-maximum
suppression, as its authors do it).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["OVERLAP", "SAME", "SCORE", "Agreement", "Boxes", "agreement", "faces", "overlaps"]

Boxes = np.ndarray[Any, np.dtype[np.float32]]  # (detections, 4)

SCORE = 0.5
OVERLAP = 0.3
SAME = 0.9  # overlap of two boxes that are one detection


@dataclass(frozen=True)
class Agreement:
    """How detections compare with the wanted ones, over all frames."""

    found: int
    missed: int
    invented: int

    @property
    def f1(self) -> float:
        """2 found / (2 found + missed + invented); NaN where there is nothing to find and nothing was found: that is no evidence."""
        total = 2 * self.found + self.missed + self.invented
        return 2 * self.found / total if total else float("nan")


def faces(outputs: Mapping[str, np.ndarray[Any, Any]], *, score: float = SCORE, overlap: float = OVERLAP) -> Boxes:
    """The detections of one frame, best first."""
    scores, boxes = outputs["scores"][0, :, 1], outputs["boxes"][0]
    likely = np.flatnonzero(scores > score)
    waiting = likely[np.argsort(-scores[likely], kind="stable")]
    kept: list[int] = []
    while len(waiting):
        best, waiting = waiting[0], waiting[1:]
        kept.append(int(best))
        waiting = waiting[overlaps(boxes[best][None], boxes[waiting])[0] <= overlap]
    found: Boxes = boxes[kept].astype(np.float32, copy=False)
    return found


def overlaps(first: Boxes, second: Boxes) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Intersection over union of every box of the first set with every one of the second: (first, second). 0 for boxes without area."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    common = np.prod(np.clip(high - low, 0, None), 2)
    areas = [np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), 1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None, :] - common
    found: np.ndarray[Any, np.dtype[np.float32]] = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return found


def agreement(pairs: Iterable[tuple[Boxes, Boxes]], *, same: float = SAME) -> Agreement:
    """Compare detections with the wanted ones, frame by frame: (found boxes, wanted boxes). Each wanted box is found once at the most; the
    pairs that overlap most are matched first."""
    hits = missed = invented = 0
    for got, wanted in pairs:
        shared = overlaps(got, wanted)
        matched = 0
        while shared.size and shared.max() >= same:
            one, other = np.unravel_index(shared.argmax(), shared.shape)
            shared[one, :], shared[:, other] = -1, -1
            matched += 1
        hits, missed, invented = hits + matched, missed + len(wanted) - matched, invented + len(got) - matched
    return Agreement(hits, missed, invented)
