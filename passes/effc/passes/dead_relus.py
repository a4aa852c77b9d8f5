"""How many neurons behind ReLUs are dead on data, dynamically and statically (`effc.nn.dead_rates`).

    relu(batch_norm(conv(x)) + y)        rows: those of conv; y arrives, too

From a ReLU back through norms, sums and what hands values on, the layers are found whose results arrive there. A neuron is dead statically
when its rows in all of them are zero and nothing else arrives (the input of a residual block, say, which no pruning takes away). Stored
tensors that are added are biases, not incoming weights. A ReLU behind no layer is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from effc.data import Dataset
from effc.ir import Program
from effc.nn.dead_rates import DeadCount, DeadRates, alive_rows, total
from effc.passes.base import Progress
from effc.passes.linear_sites import linear_sites
from effc.passes.profiling import observe
from effc.passes.prunable import PrunableWeight, prunable_layers, stored

__all__ = ["DeadRelu", "dead_relus", "measure"]

_aten = torch.ops.aten
_RELUS = frozenset({_aten.relu.default, _aten.relu_.default, _aten.relu6.default})
_SUMS = frozenset({_aten.add.Tensor, _aten.add_.Tensor})
_CARRIERS = frozenset({_aten.batch_norm.default, _aten.dropout.default, _aten.clone.default, _aten.contiguous.default, _aten.alias.default})


@dataclass(frozen=True)
class DeadRelu:
    """One ReLU and what decides whether its neurons can live.

    Attributes:
        node: its name in the graph.
        axis: of its result that counts rows.
        weights: names of the tensors of the layers in front, and their axes that count rows.
        fed: whether something else arrives, so that none of its neurons is dead statically.
    """

    node: str
    axis: int
    weights: tuple[tuple[str, int], ...]
    fed: bool


def dead_relus(program: Program) -> list[DeadRelu]:
    """The ReLUs behind layers, in execution order."""
    layers = {one.node.name: one for one in prunable_layers(program)}
    tensors = stored(program)
    linear = {site.name for site in linear_sites(program)}
    found = []
    for node in program.nodes:
        value = node.meta.get("val")
        if node.target not in _RELUS or not isinstance(value, Tensor) or not value.is_floating_point():
            continue
        arriving = list(_arriving(program, node.args[0], layers, set()))
        known = [layers[one.name] for one in arriving if one.name in layers]
        axis = value.ndim - 1 if any(one.name in linear for one in arriving) else 1
        rows = {tensors[one.name].shape[one.axis] for one in known if one.axis is not None}
        if 0 < axis < value.ndim and len(rows) == 1 and all(one.axis is not None for one in known) and value.shape[axis] == rows.pop():
            weights = tuple(dict.fromkeys((one.name, one.axis) for one in known if one.axis is not None))
            found.append(DeadRelu(node.name, axis, weights, len(known) < len(arriving)))
    return found


def measure(program: Program, relus: Sequence[DeadRelu], data: Dataset, progress: Progress, label: str) -> DeadRates | None:
    """The rates over all neurons behind these ReLUs, on data; None where there is no ReLU.

    Args:
        program: whose ReLUs these are, or one that differs from it only in its weights.
        relus: from `dead_relus`.
        data: every sample is used once.
        progress, label: see `effc.passes.profiling.observe`.
    """
    if not relus:
        return None
    tensors = stored(program)
    counters = {}
    for relu in relus:
        alive = torch.stack([alive_rows(tensors[name], axis) for name, axis in relu.weights]).any(0)
        counters[relu.node] = _Counter(torch.ones_like(alive) if relu.fed else alive, relu.axis)
    observe(program, {name: (counter,) for name, counter in counters.items()}, data, progress, label)
    return total([counter.count for counter in counters.values()])


class _Counter:
    """An observer that counts dead neurons."""

    def __init__(self, alive: Tensor, axis: int) -> None:
        self.count, self._alive, self._axis = DeadCount(), alive, axis

    def see(self, value: Tensor) -> None:
        self.count.see(value, self._alive, self._axis)


def _arriving(program: Program, value: object, layers: dict[str, PrunableWeight], seen: set[fx.Node]) -> Iterator[fx.Node]:
    """The layers, or other nodes, whose results arrive unchanged but for norms, sums and bounds."""
    if not isinstance(value, fx.Node) or value in seen or value.name in program.tensors:
        return
    seen.add(value)
    if value.target in _SUMS or value.target in _CARRIERS:
        for part in value.args[:2] if value.target in _SUMS else value.args[:1]:
            yield from _arriving(program, part, layers, seen)
    else:
        yield value
