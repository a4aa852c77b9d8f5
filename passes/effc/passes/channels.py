"""Which channels of a program live and die together, and which can be removed from it.

    a = relu(norm(conv1(x)));  b = conv2(a)
    group conv1: makes  conv1.weight[c], conv1.bias[c], the norm's four tensors[c]
                 reads  conv2.weight[:, c]

A layer starts a group. Sums, products and depthwise convolutions join groups; a concatenation puts several on one axis; a flattened image
gives each channel H * W adjacent places. What is stored per channel besides (bounds, thresholds, slopes of a PReLU) is neither made nor
read: `effc.passes.channel_removal` shrinks it with the rest.

Removing channels is exact under one condition: with all that makes them 0 (running variances aside), each value of theirs that a layer
reads is 0, for every finite input. ReLU, GELU, pools, zero padding, dropout, a bound whose range holds 0, a sum of channels that vanish
together, and a product of which one factor vanishes keep zeros; a sigmoid, a number that is added, another padding than zeros do not,
unless a layer of the group follows that makes them 0 again (batch norm, a depthwise convolution). Whether an operator keeps zeros is
not looked up: it is executed on zeros, with its own numbers.

A group for which the condition does not hold has to stay whole, and so does one that meets the program's inputs or outputs, an operator
that mixes channels (layer norm, softmax, attention, grouped convolutions) or has no rule here, an integer operator, or a tensor that
several layers use in different ways. Each says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from effc.ir import Program
from effc.nn.channel_group import ChannelGroup, Slice
from effc.passes.channel_flow import ChannelFlow
from effc.passes.channel_layers import LAYERS
from effc.passes.channel_operators import OPERATORS

__all__ = ["Pinned", "channel_groups", "follow"]


@dataclass(frozen=True)
class Pinned:
    """A group of channels that has to stay.

    Attributes:
        name: of the layer that makes them, as in `ChannelGroup`.
        why: to be read behind the name: `are an output of the program`.
    """

    name: str
    why: str


def channel_groups(program: Program) -> tuple[tuple[ChannelGroup, ...], tuple[Pinned, ...]]:
    """The groups whose channels can be removed, and those that have to stay, each in execution order.

    Tensors are called by the source's names (`program.tensor_names`). Two groups of one name, of a layer that is called twice, are told
    apart by `#2`.
    """
    flow = follow(program)
    groups = tuple(
        ChannelGroup(name, flow.groups.sizes[root], _slices(flow, root, "make"), _slices(flow, root, "read"))
        for name, root in flow.removable().items()
    )
    return groups, tuple(Pinned(name, why) for name, why in flow.pinned().items())


def follow(program: Program) -> ChannelFlow:
    """The walk under the condition of the module docstring."""
    return ChannelFlow(program, {**LAYERS, **OPERATORS})


def _slices(flow: ChannelFlow, root: int, role: Literal["make", "read"]) -> tuple[Slice, ...]:
    names = flow.program.tensor_names
    claims = [claim for claim in flow.claims if claim.role == role and flow.groups.find(claim.group) == root]
    slices = [Slice(names[claim.tensor.name], claim.axis, claim.start, claim.repeat) for claim in claims]
    return tuple(dict.fromkeys(slices))
