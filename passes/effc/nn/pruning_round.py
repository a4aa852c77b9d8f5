"""One round of pruning: the base pruner and AP share a number of weights that go.

    base: count - by_ap weights with the lowest scores, or the channels with the lowest scores
    AP:   by_ap negative weights that moved least, of those that are left
    base: what AP could not take, because too few are negative

The order is that of AP's algorithm (arXiv 2212.06145): the base pruner chooses first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from effc.nn.channel_group import ChannelGroup
from effc.nn.channel_pruning import without_lowest_channels
from effc.nn.pruning import Scope, Tensors, best_of_rows, moved_least, remaining, without_lowest

__all__ = ["Pruned", "prune"]


@dataclass(frozen=True)
class Pruned:
    """What a round has done.

    Attributes:
        masks: what is alive now.
        removed: how many weights went: `count`, or with channels a little more.
        by_ap: how many of them AP chose.
    """

    masks: dict[str, Tensor]
    removed: int
    by_ap: int


def prune(
    weights: Tensors,
    scores: Tensors,
    masks: Tensors,
    count: int,
    *,
    scope: Scope = "global",
    by_ap: int = 0,
    starts: Tensors | None = None,
    groups: Sequence[ChannelGroup] = (),
    outputs: Mapping[str, int] | None = None,
) -> Pruned:
    """Choose what goes.

    Args:
        weights: what may go, by name; `count` counts these.
        scores: of the weights, larger is better.
        masks: of the weights and, with groups, of whatever else is masked with a channel.
        count: how many go, AP's included.
        scope: of the base pruner, see `effc.nn.pruning.without_lowest`.
        by_ap: how many AP chooses, at most `count`.
        starts: the weights when this training began; needed where `by_ap` is not 0.
        groups: the base pruner removes whole channels of these, as few as reach its number.
        outputs: matrices whose rows all keep a weight, by the axis that counts rows (`effc.nn.pruning.best_of_rows`). Whole channels take
            no heed of it: they are no rows of these.

    Raises:
        UsageError: a score is NaN, or less may go than shall.
    """
    stay = best_of_rows(scores, masks, outputs or {})
    before = remaining(masks, weights)
    result = _base(scores, dict(masks), count - by_ap, scope, groups, stay)
    taken = 0
    if by_ap:
        assert starts is not None
        left = remaining(result, weights)
        result = moved_least(weights, starts, result, by_ap, stay)
        taken = left - remaining(result, weights)
    result = _base(scores, result, count - before + remaining(result, weights), scope, groups, stay)
    return Pruned(result, before - remaining(result, weights), taken)


def _base(
    scores: Tensors, masks: dict[str, Tensor], count: int, scope: Scope, groups: Sequence[ChannelGroup], stay: Tensors
) -> dict[str, Tensor]:
    if count <= 0:
        return masks
    return without_lowest_channels(scores, masks, groups, count, scope) if groups else without_lowest(scores, masks, count, scope, stay)
