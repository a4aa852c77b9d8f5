"""How a block's budget of sparsity is shared among its linear layers: greedily, as TEAL does (arXiv 2408.14690, section 4.1).

With w_m the share of a layer m in the weight bytes of its block and p_m its sparsity, a block at level L has sum(w_m * p_m) = L. Layer
after layer gets a step more, always the one for which the error of the block rises least for the bytes that it saves, until the level is
reached; from there it goes on to the next level. The error is sum(|y - y'|^2) / sum(|y|^2) over the values that leave the block, whose
inputs are those of the dense program.

Deviations from the paper. It tries every layer with the same bytes, p_m + step / w_m, so that a layer with a twentieth of the bytes (keys
and values of grouped heads) can only be dense or nearly empty; here every layer is tried with the same step of p_m. A layer is tried
again only when it seemed best (rates of errors rise with p_m, so an old one is a lower bound, nearly always). Where the same level for
all layers has the smaller error, that is taken. The error is measured on all positions of a sample, not on the last quarter.

A block is executed as the part of the program from its first node to its last one in execution order: the nodes whose user's name has the
block's prefix, and whatever stands between them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from effc.data import Dataset
from effc.ir import Program, source_of
from effc.ir.arrays import to_torch
from effc.ir.ops.sparsify import SPARSIFY
from effc.passes.base import Progress
from effc.passes.level_search import MOST
from effc.passes.linear_sites import block_of
from effc.passes.thresholds import Calibrated

__all__ = ["Allocation", "greedy"]

_SAMPLES = 64  # that blocks are executed on, spread over the data: a budget needs no more, and all of a batch is in memory at once
_NOTHING = 1e-12

Levels = dict[str, float]


@dataclass(frozen=True)
class Allocation:
    """What one block does at one level.

    Attributes:
        levels: by site name, p_m.
        error: of the block, relative, squared.
        uniform_error: with the level at every site.
    """

    levels: Levels
    error: float
    uniform_error: float


def greedy(
    program: Program, sites: Sequence[Calibrated], levels: Sequence[float], step: float, data: Dataset, progress: Progress, label: str
) -> dict[str, list[Allocation]]:
    """Allocations for rising levels.

    Args:
        program: what the sites are calibrated on.
        sites: the layers to share among.
        levels: rising, in (0, MOST].
        step: of a layer's sparsity.
        data: what the error is measured on; up to 64 samples, spread evenly.
        progress: shows the blocks that are done, under `label`.

    Returns:
        By block, one allocation a level.
    """
    blocks: dict[str, list[Calibrated]] = {}
    for one in sites:
        blocks.setdefault(one.site.block, []).append(one)
    regions = {name: _region(program, name, members) for name, members in blocks.items()}
    found: dict[str, list[Allocation]] = {}
    with progress(label, len(blocks)) as advance, torch.no_grad():
        walk = _Walk(program, _spread(data))
        for index, node in enumerate(walk.order):
            for name in [name for name, nodes in regions.items() if nodes[0] is node]:
                found[name] = _shared(_Block(walk, regions[name]), blocks[name], levels, step)
                advance(1)
            walk.step(index)
    return found


def _shared(block: _Block, members: Sequence[Calibrated], levels: Sequence[float], step: float) -> list[Allocation]:
    """The greedy path through the levels."""
    total = sum(one.site.bytes for one in members)
    weight = {one.site.name: one.site.bytes / total for one in members}
    threshold = {one.site.name: one.threshold for one in members}

    def error(shares: Mapping[str, float]) -> float:
        return block.error({one.site.name: (one.site.position, threshold[one.site.name](shares[one.site.name])) for one in members})

    current, at, spent = dict.fromkeys(weight, 0.0), 0.0, 0.0
    rates = dict.fromkeys(weight, -math.inf)  # of the error for a share of the bytes, as they were when last tried
    found = []
    for level in levels:
        while level - spent > _NOTHING:
            room = {name: min(step * weight[name], level - spent, weight[name] * (MOST - current[name])) for name in weight}
            fresh: dict[str, float] = {}
            while True:
                best = min((name for name in room if room[name] > _NOTHING), key=lambda name: rates[name])
                if best in fresh:
                    break
                fresh[best] = error({**current, best: current[best] + room[best] / weight[best]})
                rates[best] = (fresh[best] - at) / room[best]
            current[best] += room[best] / weight[best]
            spent, at = spent + room[best], fresh[best]
        uniform = error(dict.fromkeys(weight, level))
        better = uniform < at
        found.append(Allocation(dict.fromkeys(weight, level) if better else dict(current), min(at, uniform), uniform))
    return found


def _region(program: Program, block: str, members: Sequence[Calibrated]) -> list[fx.Node]:
    nodes = program.nodes
    own = {one.site.name for one in members}
    inside = [index for index, node in enumerate(nodes) if node.name in own or block_of(source_of(node)) == block]
    return nodes[inside[0] : inside[-1] + 1]


def _spread(data: Dataset) -> list[Dataset]:
    """Up to 64 samples, evenly spread, in batches that the program takes."""
    unit = data.unit or 1
    groups = len(data) // unit
    wanted = min(groups, max(1, _SAMPLES // unit))
    rows = [start * unit + offset for start in (index * groups // wanted for index in range(wanted)) for offset in range(unit)]
    return list(data.part(torch.tensor(rows).numpy()).batches(_SAMPLES))


class _Walk(fx.Interpreter):
    """Runs a program node by node, on several batches at once; values that nobody needs any more are dropped."""

    def __init__(self, program: Program, batches: Sequence[Dataset]) -> None:
        super().__init__(program.exported.graph_module)
        self.order = program.nodes
        self.thresholds: Mapping[str, tuple[int, Tensor]] = {}
        placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
        stored = [program.tensors[name] for name in program.tensor_names]
        self.values: list[dict[fx.Node, Any]] = []
        for batch in batches:
            inputs = [to_torch(batch.inputs[value.name]) for value in program.interface.inputs]
            self.values.append(dict(zip(placeholders, [*stored, *inputs], strict=True)))
        self._other = [node for node in program.graph.nodes if node.op == "get_attr"]
        for values in self.values:
            values.update({node: self._run(node, values) for node in self._other})
        self._last: dict[fx.Node, list[fx.Node]] = {}
        position = {node: index for index, node in enumerate(self.order)}
        for node in self.order:
            uses = [position.get(user, len(position)) for user in node.users]
            if uses and max(uses) < len(position):
                self._last.setdefault(self.order[max(uses)], []).append(node)

    def step(self, index: int) -> None:
        """Compute the next node in every batch."""
        node = self.order[index]
        for values in self.values:
            values[node] = self._run(node, values)
            for done in self._last.get(node, ()):
                del values[done]

    def region(self, nodes: Sequence[fx.Node], values: Mapping[fx.Node, Any]) -> dict[fx.Node, Any]:
        """The values of nodes that follow what was computed so far."""
        local = dict(values)
        for node in nodes:
            local[node] = self._run(node, local)
        return local

    def _run(self, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        self.env = values
        return self.run_node(node)

    def run_node(self, n: fx.Node) -> Any:
        sparse = self.thresholds.get(n.name)
        if sparse is None:
            return super().run_node(n)
        position, threshold = sparse
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        changed = list(args)
        changed[position] = SPARSIFY.overload(args[position], threshold, "magnitude")
        return self.call_function(n.target, tuple(changed), kwargs)


class _Block:
    """A region of the program that the walk has come to, with what leaves it densely."""

    def __init__(self, walk: _Walk, nodes: Sequence[fx.Node]) -> None:
        self._walk, self._nodes = walk, nodes
        inside = set(nodes)
        self._leaving = [node for node in nodes if any(user not in inside for user in node.users)]
        self._dense = []
        for values in walk.values:
            computed = walk.region(nodes, values)
            self._dense.append({node: computed[node] for node in self._leaving if _is_real(computed[node])})

    def error(self, thresholds: Mapping[str, tuple[int, Tensor]]) -> float:
        """Relative squared error of what leaves the block, summed over the values that leave it."""
        difference: dict[fx.Node, float] = {}
        size: dict[fx.Node, float] = {}
        self._walk.thresholds = thresholds
        try:
            for values, dense in zip(self._walk.values, self._dense, strict=True):
                computed = self._walk.region(self._nodes, values)
                for node, wanted in dense.items():
                    difference[node] = difference.get(node, 0.0) + float((computed[node] - wanted).double().square().sum())
                    size[node] = size.get(node, 0.0) + float(wanted.double().square().sum())
        finally:
            self._walk.thresholds = {}
        return sum(difference[node] / (size[node] or 1.0) for node in difference)


def _is_real(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
