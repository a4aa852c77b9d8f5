"""Following channels through a program: the walk behind `effc.passes.channels` and `effc.passes.channel_removal`.

Each layer starts a group of channels; each operator's rule says where the groups of its inputs lie in its result, and which stored
tensors they index there. What has no rule mixes channels, as far as we know, and pins the groups that go into it.

Beside the places of channels the walk knows numbers: with everything that makes channels taken as 0, whether a channel is filled with one
number whatever the input is. A group can be removed when all that is read of it is 0 then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from effc.ir import Program, source_of
from effc.passes.channel_layout import Claim, Groups, Layout, NotFollowedError, Part
from effc.passes.linear_sites import TRANSPOSES

__all__ = ["ChannelFlow", "Resize", "Rule", "label"]


@dataclass(frozen=True)
class Resize:
    """A reshape whose argument at `position` of its shape is the length of these parts."""

    node: fx.Node
    position: int
    parts: tuple[Part, ...]


class ChannelFlow:
    """The channels of every value of a program.

    Args:
        program: the program; it is not changed.
        rules: how channels go through an operator, by its overload.

    Attributes:
        groups: all groups.
        claims: which stored tensors they index.
        resizes, depthwise, squeezes: nodes whose arguments hold a number of channels, or depend on it.
    """

    def __init__(self, program: Program, rules: Mapping[object, Rule]) -> None:
        self.program = program
        self.groups = Groups()
        self.claims: list[Claim] = []
        self.resizes: list[Resize] = []
        self.depthwise: list[tuple[fx.Node, tuple[Part, ...]]] = []
        self.squeezes: list[tuple[fx.Node, tuple[int, ...]]] = []
        self._layouts: dict[fx.Node, Layout] = {}
        for node in program.nodes:
            self._visit(node, rules)
        for node in program.graph.output_node().all_input_nodes:
            self.pin(node, "are an output of the program")
        self._pin_shared()

    # ---- for rules -----------------------------------------------------------------------------------------------------------

    def layout(self, value: object) -> Layout | None:
        """The channels of a node's value; None for a value without, and for what is no node."""
        return self._layouts.get(value) if isinstance(value, fx.Node) else None

    def inputs(self, node: fx.Node) -> dict[fx.Node, Layout]:
        """The channels of what goes into a node."""
        return {one: self._layouts[one] for one in node.all_input_nodes if one in self._layouts}

    def stored(self, value: object) -> Tensor | None:
        """The floating-point parameter, buffer or constant behind a placeholder."""
        found = self.program.tensors.get(value.name) if isinstance(value, fx.Node) and value.op == "placeholder" else None
        return found.detach() if found is not None and found.is_floating_point() else None

    def pin(self, value: object, why: str) -> None:
        """The channels of a value have to stay."""
        layout = self.layout(value)
        for part in layout.parts if layout else ():
            if part.group is not None:
                self.groups.pin(part.group, why)

    def start(self, node: fx.Node, size: int, pinned: str = "") -> Part:
        """A new group: the channels that a layer makes."""
        group = self.groups.new(source_of(node), size)
        if pinned:
            self.groups.pin(group, pinned)
        return Part(group, size)

    def claim(self, role: Any, tensor: object, axis: int, layout: Layout, consumer: fx.Node, times: int = 1) -> None:
        """The channels of a layout index a stored tensor on an axis, each `times` as often as the layout's own."""
        assert isinstance(tensor, fx.Node)
        for group, start, part in layout.spans():
            self.claims.append(Claim(role, tensor, axis, start * times, part.repeat * times, group, consumer))

    def read(self, value: fx.Node, axis: int, weight: fx.Node, weight_axis: int, consumer: fx.Node) -> None:
        """A layer sums over the channels of a value, weighted by a stored tensor."""
        layout = self.layout(value)
        if layout is None:
            return
        if layout.axis != axis:
            self.pin(value, f"are read along another axis by {label(consumer)}")
            return
        self.claim("read", weight, weight_axis, layout, consumer)
        for group, start, part in layout.spans():
            nonzero = (layout.constant[start : start + part.length] != 0).reshape(part.size, part.repeat).any(1)
            if bool(nonzero.any()):
                self.groups.pin(group, f"do not vanish: {layout.why}, and {label(consumer)} reads that")

    # ---- the walk ------------------------------------------------------------------------------------------------------------

    def _visit(self, node: fx.Node, rules: Mapping[object, Rule]) -> None:
        rule = rules.get(node.target)
        try:
            if rule is None:
                raise NotFollowedError(f"go into {label(node)}, which mixes channels or is not known to keep them apart")
            found = rule(self, node)
        except NotFollowedError as error:
            found = None
            for value in node.all_input_nodes:
                self.pin(value, str(error))
        if found is not None:
            self._layouts[node] = self._blamed(node, found)

    def _blamed(self, node: fx.Node, layout: Layout) -> Layout:
        """The layout with the operator that made something else of zeros."""
        spans = [layout.constant[start : start + part.length] for _, start, part in layout.spans()]
        left = torch.cat([span[span != 0] for span in spans]) if spans else torch.empty(0)
        if not len(left):
            return replace(layout, why="")
        before = next((one.why for one in self.inputs(node).values() if one.why), "")
        made = "something else" if left[0].isnan() else f"{float(left[0]):.3g}"
        return replace(layout, why=before or f"{label(node)} makes {made} of a channel of zeros")

    def _pin_shared(self) -> None:
        """What indexes a tensor must do so everywhere in the same way, or not shrink."""
        by_tensor: dict[fx.Node, list[Claim]] = {}
        for claim in self.claims:
            by_tensor.setdefault(claim.tensor, []).append(claim)
        for tensor, claims in by_tensor.items():
            ways: dict[fx.Node, set[tuple[int, int, int, int]]] = {user: set() for user in _consumers(tensor)}
            for one in claims:
                ways[one.consumer].add((one.axis, one.start, one.repeat, self.groups.find(one.group)))
            if len({frozenset(way) for way in ways.values()}) > 1:
                for one in claims:
                    name = self.program.tensor_names[tensor.name]
                    self.groups.pin(one.group, f"index {name}, which several operators use in different ways")

    # ---- results -------------------------------------------------------------------------------------------------------------

    def removable(self) -> dict[str, int]:
        """The groups whose channels can be removed, by name."""
        return {name: root for name, root in self._names().items() if not self.groups.pinned(root)}

    def pinned(self) -> dict[str, str]:
        """Why the channels of the others have to stay, by name."""
        return {name: self.groups.pinned(root) for name, root in self._names().items() if self.groups.pinned(root)}

    def _names(self) -> dict[str, int]:
        names: dict[str, int] = {}
        for root in self.groups.roots:
            name, number = self.groups.names[root], 2
            while name in names:
                name, number = f"{self.groups.names[root]}#{number}", number + 1
            names[name] = root
        return names


Rule = Callable[[ChannelFlow, fx.Node], Layout | None]


def label(node: fx.Node) -> str:
    """A node in the user's words, with its operator where the name does not say it."""
    source, op = source_of(node), str(node.target).split(".")[-2] if "." in str(node.target) else str(node.target)
    return source if op in source else f"{source} ({op})"


def _consumers(tensor: fx.Node) -> list[fx.Node]:
    """What uses a stored tensor, as it is or transposed."""
    found: list[fx.Node] = []
    for user in tensor.users:
        found.extend(user.users if user.target in TRANSPOSES else [user])
    return found
