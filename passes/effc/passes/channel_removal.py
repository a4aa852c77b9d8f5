"""Remove channels from a program: its tensors get smaller, and so do its values.

    before: conv1 (16, 3, 3, 3) -> norm (16) -> relu -> conv2 (8, 16, 3, 3)
    after:  conv1 (12, 3, 3, 3) -> norm (12) -> relu -> conv2 (8, 12, 3, 3)

What goes: the channels' part of all that makes, reads or bounds them; numbers of channels among the arguments of reshapes; the group
count of depthwise convolutions. Names stay. The result computes what the program computes whose channels have all that makes them set
to 0, up to the order of sums: see `effc.passes.channels` for the condition. Facts of values that change their shape are dropped, and so is
what has no effect on the outputs (as after every `Edit`).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, fx

from effc.errors import ConfigError, Problem
from effc.ir import Edit, Program
from effc.passes.channel_flow import ChannelFlow
from effc.passes.channel_layout import Part
from effc.passes.channels import follow

__all__ = ["remove_channels"]

_aten = torch.ops.aten


def remove_channels(program: Program, keep: Mapping[str, Tensor]) -> Program:
    """The program without some of its channels.

    Args:
        program: it is not changed.
        keep: by the name of a group of `channel_groups`: bool (size,), True for the channels that stay. Other groups stay whole.

    Raises:
        ConfigError: no such group, a group that has to stay, a mask of another shape or dtype, or one that keeps nothing; all at once.
    """
    flow = follow(program)
    _check(flow, keep)
    kept = {root: keep[name] for name, root in flow.removable().items() if name in keep and not bool(keep[name].all())}
    if not kept:
        return program
    edit = Edit(program)
    for tensor, value in _smaller(flow, kept).items():
        edit.resize_tensor(edit.node(tensor.name), value)
    for resize in flow.resizes:
        node = edit.node(resize.node.name)
        shape = list(node.args[1])  # type: ignore[arg-type]
        shape[resize.position] = _length(flow, resize.parts, kept)
        node.update_arg(1, shape)
    for original, parts in flow.depthwise:
        _set_groups(edit.node(original.name), _length(flow, parts, kept))
    for original, dims in flow.squeezes:  # it would also drop an axis of channels of which one is left
        node = edit.node(original.name)
        node.target, node.args = _aten.squeeze.dims, (node.args[0], list(dims))
    edit.refresh()
    return edit.done()


def _check(flow: ChannelFlow, keep: Mapping[str, Tensor]) -> None:
    removable, pinned, problems = flow.removable(), flow.pinned(), []
    for name, mask in keep.items():
        if name in pinned:
            problems.append(Problem(name, "channels", f"have to stay: they {pinned[name]}", "leave the group out"))
            continue
        if name not in removable:
            problems.append(Problem(name, "channels", "the program has no such group", f"there are: {', '.join(removable) or 'none'}"))
            continue
        size = flow.groups.sizes[removable[name]]
        if mask.dtype != torch.bool or tuple(mask.shape) != (size,):
            problems.append(
                Problem(name, f"{mask.dtype}{list(mask.shape)}", f"expected torch.bool[{size}]: one True for each channel that stays")
            )
        elif not bool(mask.any()):
            problems.append(Problem(name, "channels", "none of them would stay", "keep at least one, or the layers behind have no input"))
    if problems:
        raise ConfigError("these channels cannot be removed", problems)


def _smaller(flow: ChannelFlow, kept: Mapping[int, Tensor]) -> dict[fx.Node, Tensor]:
    """The tensors that the groups index, without what goes."""
    masks: dict[tuple[fx.Node, int], Tensor] = {}
    for claim in flow.claims:
        mask = kept.get(flow.groups.find(claim.group))
        if mask is None:
            continue
        whole = flow.program.tensors[claim.tensor.name]
        stays = masks.setdefault((claim.tensor, claim.axis), torch.ones(whole.shape[claim.axis], dtype=torch.bool))
        spread = mask.repeat_interleave(claim.repeat)
        stays[claim.start : claim.start + len(spread)] = spread
    smaller: dict[fx.Node, Tensor] = {}
    for (tensor, axis), stays in masks.items():
        value = smaller.get(tensor, flow.program.tensors[tensor.name].detach())
        smaller[tensor] = value.index_select(axis, stays.nonzero().flatten())
    return smaller


def _length(flow: ChannelFlow, parts: tuple[Part, ...], kept: Mapping[int, Tensor]) -> int:
    """How many indices of an axis are left."""
    masks = [(part, kept.get(flow.groups.find(part.group)) if part.group is not None else None) for part in parts]
    return sum(part.length if mask is None else int(mask.sum()) * part.repeat for part, mask in masks)


def _set_groups(convolution: fx.Node, groups: int) -> None:
    names = [argument.name for argument in convolution.target._schema.arguments]  # type: ignore[union-attr]
    position = names.index("groups")
    if position < len(convolution.args):
        convolution.update_arg(position, groups)
    else:
        convolution.update_kwarg("groups", groups)
