"""Which whole channels go: `pruning` for channels that live and die together (`ChannelGroup`).

The score of a channel is the sum of its weights' scores over all matrices that make it (Li et al., arXiv 1608.08710, section 3.1, for
magnitudes), divided by the root mean square of these sums over the group's alive channels. That is the layer-wise l2 normalisation of
Molchanov et al. (arXiv 1611.06440, section 2.2) times the square root of the group's size, so that wide groups are not taken for
unimportant because they are wide, nor layers with small weights because these are small.

A channel that goes is masked in all that makes it (rows of weights, biases, the tensors of norms) and in all that reads it, so the network
computes the same as one in which it does not exist, and masked weights count as what will be removed. The last channel of a group stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from effc.errors import UsageError, counted
from effc.nn.channel_group import ChannelGroup, Slice
from effc.nn.pruning import Scope, Tensors

__all__ = ["alive_channels", "channel_scores", "without_lowest_channels"]


def channel_scores(scores: Tensors, masks: Tensors, groups: Sequence[ChannelGroup]) -> dict[str, Tensor]:
    """The scores of channels, by group name: float64 (size,); 0 for those that are gone.

    Args:
        scores: of weights, at least 0, by tensor name. A group's matrices that have none do not count.
        masks: what is alive, of the same tensors and of all others that make channels and can be masked.
        groups: whose channels.

    Raises:
        UsageError: a group is made by no matrix that has scores.
    """
    found = {}
    alive = alive_channels(masks, groups)
    for group in groups:
        total = torch.zeros(group.size, dtype=torch.float64)
        made = [one for one in group.makes if one.tensor in scores and scores[one.tensor].ndim >= 2]
        if not made:
            raise UsageError(f"pruning: no weights that have scores make the channels of {group.name}")
        for one in made:
            values = (scores[one.tensor].detach() * masks[one.tensor]).double().movedim(one.axis, 0)
            rows = values.reshape(values.shape[0], -1).sum(1).cpu()
            total += rows[one.select(torch.arange(group.size))].reshape(group.size, one.repeat).sum(1)
        total = torch.where(alive[group.name], total, 0.0)
        scale = (total.square().sum() / alive[group.name].sum()).sqrt()
        found[group.name] = total / scale if float(scale) > 0 else total
    return found


def alive_channels(masks: Tensors, groups: Sequence[ChannelGroup]) -> dict[str, Tensor]:
    """Which channels are left, by group name: bool (size,), on the CPU. One is gone when all that makes it is masked."""
    found = {}
    for group in groups:
        alive = torch.zeros(group.size, dtype=torch.bool)
        for one in group.makes:
            if one.tensor in masks:
                mask = masks[one.tensor].movedim(one.axis, 0)
                rows = mask.reshape(mask.shape[0], -1).any(1).cpu()
                alive |= rows[one.select(torch.arange(group.size))].reshape(group.size, one.repeat).any(1)
        found[group.name] = alive
    return found


def without_lowest_channels(
    scores: Tensors, masks: Tensors, groups: Sequence[ChannelGroup], count: int, scope: Scope = "global"
) -> dict[str, Tensor]:
    """The masks after the channels with the lowest scores are gone: as few as mask at least `count` of the weights that have scores.

    Args:
        scores, masks, groups: see `channel_scores`.
        count: weights, counted in tensors that have scores; each once, also where two channels share it.
        scope: `global` compares the channels of all groups by their scores; `layer` takes from each group the same share of its alive
            channels, as far as whole channels allow.

    Raises:
        UsageError: fewer than `count` weights can go while each group keeps a channel; a score is NaN.
    """
    result = {name: mask.clone() for name, mask in masks.items()}
    left = {name: int(alive.sum()) for name, alive in alive_channels(masks, groups).items()}
    gone = 0
    for group, channel in _in_order(channel_scores(scores, masks, groups), alive_channels(masks, groups), groups, scope):
        if gone >= count:
            break
        if left[group.name] > 1:
            left[group.name] -= 1
            gone += _cut(result, group, channel, scores)
    if gone < count:
        why = f"with one channel left in each of {counted(len(groups), 'group')} only {gone:,} are gone"
        raise UsageError(f"pruning: {counted(count, 'weight')} shall go in whole channels, but {why}")
    return result


def _in_order(
    scores: Mapping[str, Tensor], alive: Mapping[str, Tensor], groups: Sequence[ChannelGroup], scope: Scope
) -> Iterator[tuple[ChannelGroup, int]]:
    """All alive channels, the first to go first."""
    ranked: list[tuple[float, int, ChannelGroup, int]] = []
    for position, group in enumerate(groups):
        values = scores[group.name]
        if bool(values.isnan().any()):
            raise UsageError(f"pruning: the scores of {group.name} are NaN: training has diverged; lower the learning rate")
        order = [channel for channel in torch.argsort(values, stable=True).tolist() if alive[group.name][channel]]
        for rank, channel in enumerate(order):
            key = float(values[channel]) if scope == "global" else (rank + 1) / len(order)
            ranked.append((key, position, group, channel))
    for _, _, group, channel in sorted(ranked, key=lambda entry: entry[:2]):
        yield group, channel


def _cut(masks: dict[str, Tensor], group: ChannelGroup, channel: int, scores: Tensors) -> int:
    """Mask a channel, in place; how many weights with scores that has taken."""
    taken = 0
    for one in (*group.makes, *group.reads):
        if one.tensor in masks:
            rows = _rows(one, channel).to(masks[one.tensor].device)
            if one.tensor in scores:
                taken += int(masks[one.tensor].index_select(one.axis, rows).sum())
            masks[one.tensor].index_fill_(one.axis, rows, False)
    return taken


def _rows(one: Slice, channel: int) -> Tensor:
    return one.select(torch.tensor([channel]))
