"""What `prune` is to do in a program: which weights and channels, how many, and where survivors come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from effc.errors import ConfigError, DataError, Problem
from effc.ir import Program
from effc.nn.channel_group import ChannelGroup
from effc.nn.pruning import remaining
from effc.passes.base import Context, Pass
from effc.passes.channels import channel_groups
from effc.passes.linear_sites import chosen
from effc.passes.prunable import PrunableWeight, prunable_weights, stored

__all__ = ["PruningTask", "initial_for", "task_for"]


@dataclass(frozen=True)
class PruningTask:
    """What is to be pruned from a program.

    Attributes:
        program: before the pass.
        layers: whose weights they are, each tensor once.
        weights: the tensors that shares count, by the source's names.
        masks: what is alive, of these and of all that channels take with them.
        count: how many weights shall go.
        groups: of channels; empty for single weights.
    """

    program: Program
    layers: tuple[PrunableWeight, ...]
    weights: Mapping[str, Tensor]
    masks: Mapping[str, Tensor]
    count: int
    groups: tuple[ChannelGroup, ...]

    @property
    def outputs(self) -> dict[str, int]:
        """The matrices whose rows all keep a weight, and the axes that count rows."""
        return {one.name: one.axis for one in self.layers if one.head and one.axis is not None}


def task_for(
    by: Pass, program: Program, context: Context, *, sparsity: float, channels: bool, layers: str, trained: bool
) -> PruningTask | None:
    """The task; None where there is nothing to do, and the log says why.

    Args:
        by, program, context: of the pass.
        sparsity, layers: its options.
        channels: whether whole channels go.
        trained: whether gradients are needed, so that only parameters can be pruned: constants and buffers have none.

    Raises:
        ConfigError: `layers` matches no layer, or no channels can be removed from this program.
    """
    found = _layers(by, program, context, layers, trained)
    weights = {one.name: stored(program)[one.name] for one in found}
    masks = {name: weight != 0 for name, weight in weights.items()}
    total, alive = sum(weight.numel() for weight in weights.values()), remaining(masks)
    count = alive - round(total * (1 - sparsity))
    if count <= 0:
        why = f"{1 - alive / total:.1%} of its {total:,} weights are zero already" if total else "has no layer with a stored weight"
        context.log(by, program.provenance.source, False, why)
        return None
    groups = _groups(by, program, context, weights) if channels else ()
    tensors = stored(program)
    for one in (one for group in groups for one in (*group.makes, *group.reads)):
        masks.setdefault(one.tensor, torch.ones_like(tensors[one.tensor], dtype=torch.bool))
    return PruningTask(program, tuple(found), weights, masks, count, groups)


def initial_for(program: Program, names: Sequence[str], initial: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of `--init` what the program has.

    Raises:
        DataError: one of `names` is missing there, or a shape is another; all of them at once.
    """
    shapes = {name: value.shape for name, value in stored(program).items()}
    problems = [Problem(name, "weight", "--init has none of that name") for name in names if name not in initial]
    for name, value in initial.items():
        if name in shapes and value.shape != shapes[name]:
            problems.append(Problem(name, f"shape {list(value.shape)} in --init", f"the program has {list(shapes[name])} here"))
    if problems:
        raise DataError("the parameters of --init are not those of the program that prune gets: let it come earlier", problems)
    return {name: value for name, value in initial.items() if name in shapes}


def _layers(by: Pass, program: Program, context: Context, layers: str, trained: bool) -> list[PrunableWeight]:
    placeholders = {name: placeholder for placeholder, name in program.tensor_names.items()}
    kept = []
    for one in chosen(prunable_weights(program), by, context, layers):
        if trained and not isinstance(program.tensors[placeholders[one.name]], torch.nn.Parameter):
            context.log(by, one.node, False, f"{one.name} is a constant or a buffer, which does not train")
        else:
            kept.append(one)
    return kept


def _groups(by: Pass, program: Program, context: Context, weights: Mapping[str, Tensor]) -> tuple[ChannelGroup, ...]:
    groups, pinned = channel_groups(program)
    for pin in pinned:
        context.log(by, pin.name, False, f"its channels {pin.why}")
    tensors, kept = stored(program), []
    for group in groups:
        others = [one.tensor for one in group.makes if tensors[one.tensor].ndim >= 2 and one.tensor not in weights]
        if others:
            makers = ", ".join(dict.fromkeys(others))
            context.log(by, group.name, False, f"its channels are made by {makers}, too, which is not pruned")
        else:
            kept.append(group)
    if not kept:
        problem = Problem("prune", "per=channel", "no channels can be removed from this program", "prune per=weight, or see --explain")
        raise ConfigError("pass prune cannot run", [problem])
    return tuple(kept)
