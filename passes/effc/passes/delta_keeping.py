"""What `effc::truncate` and `effc::stream_clock` keep, on many frames of one value at once. See there for the rules.

A pixel that no window has touched is not looked at: a compiled kernel does not compute it, and here its value may differ in its last bits,
because a sum over another image of the batch may have been made in another order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from effc.ir.ops.stream_clock import LAST, most_moved

__all__ = ["Rule", "keep", "keep_frame"]


@dataclass(frozen=True)
class Rule:
    """What happens to the value of a site.

    Attributes:
        threshold: of the truncate, in the value's own unit; at least 0.
        step: of a rounding in front of it, step * round(x / step): (C, 1, 1), over 0; None for no rounding.
    """

    threshold: float = 0.0
    step: Tensor | None = None

    @property
    def described(self) -> str:
        """In words."""
        if self.step is not None:
            low, high = float(self.step.min()), float(self.step.max())
            return f"rounded to steps of {low:.4g}" + (f" to {high:.4g}" if high > low else "")
        return "exact" if self.threshold == 0 else f"threshold {self.threshold:.4g}"


def keep(x: Tensor, rule: Rule, previous: Tensor | None, active: Tensor | None, whole: Sequence[bool]) -> tuple[Tensor, Tensor]:
    """The values of a layer as the network reads them.

    Args:
        x: (T, C, H, W), channels last in memory.
        rule: of the site.
        previous: what was kept in the frame before: (1, C, H, W); None at a reset, where the first frame is whole.
        active: the pixels that were computed, (T, 1, H, W) bool; None for all.
        whole: which frames are computed whole.

    Returns:
        What is kept, like x, and which pixels moved, (T, 1, H, W) bool.
    """
    x = _rounded(x, rule)
    rows = _rows(x)
    kept = rows if rule.threshold == 0 else torch.empty_like(rows)
    moved = torch.zeros(rows.shape[:2], dtype=torch.bool)
    before = None if previous is None else _rows(previous)[0]
    for t, row in enumerate(rows):
        if whole[t] or before is None:
            kept[t] = row
            moved[t] = True
        else:
            places = None if active is None else active[t].flatten().nonzero().squeeze(1)
            new, old = (row, before) if places is None else (row.index_select(0, places), before.index_select(0, places))
            chosen = _apart(new, old, rule.threshold)
            if rule.threshold > 0:
                kept[t] = before
            if places is None:
                moved[t] = chosen
                places = chosen.nonzero().squeeze(1)
            else:
                places = places[chosen]
                moved[t].index_fill_(0, places, True)
            if rule.threshold > 0:
                kept[t].index_copy_(0, places, row.index_select(0, places))
        before = kept[t]
    return _image(kept, x), moved.reshape(len(x), 1, *x.shape[2:])


def keep_frame(
    x: Tensor, rule: Rule, previous: Tensor | None, clock: int, scene_cut: float, refresh: int
) -> tuple[Tensor, Tensor, list[bool], int]:
    """The frames as the network reads them.

    Args:
        x, rule, previous: as for `keep`.
        clock: of the frame before; 0 at a reset.
        scene_cut, refresh: of `effc::stream_clock`.

    Returns:
        What is kept, which pixels moved, which frames are computed whole, and the clock of the last one.
    """
    x = _rounded(x, rule)
    rows = _rows(x)
    kept = torch.empty_like(rows)
    moved = torch.zeros(rows.shape[:2], dtype=torch.bool)
    whole = []
    before = torch.zeros_like(rows[0]) if previous is None else _rows(previous)[0]
    for t, row in enumerate(rows):
        apart = _apart(row, before, rule.threshold)
        fresh = clock == 0 or (refresh > 0 and clock >= refresh) or int(apart.sum()) > most_moved(scene_cut, len(row))
        clock = 1 if fresh else min(clock, LAST - 1) + 1
        whole.append(fresh)
        moved[t] = True if fresh else apart
        kept[t] = row if fresh or rule.threshold == 0 else torch.where(apart[:, None], row, before)
        before = kept[t]
    return _image(kept, x), moved.reshape(len(x), 1, *x.shape[2:]), whole, clock


def _rounded(x: Tensor, rule: Rule) -> Tensor:
    return x if rule.step is None else (torch.round(x / rule.step) * rule.step).contiguous(memory_format=torch.channels_last)


def _apart(new: Tensor, old: Tensor, threshold: float) -> Tensor:
    """Which rows differ by more than the threshold, as a root mean square; a NaN does."""
    return (new != old).any(1) if threshold == 0 else ~((new - old).square_().sum(1) <= threshold * threshold * new.shape[1])


def _rows(x: Tensor) -> Tensor:
    """(T, C, H, W) as (T, H * W, C), without a copy where channels are last in memory."""
    return x.permute(0, 2, 3, 1).reshape(len(x), -1, x.shape[1])


def _image(rows: Tensor, like: Tensor) -> Tensor:
    return rows.reshape(len(like), *like.shape[2:], like.shape[1]).permute(0, 3, 1, 2)
