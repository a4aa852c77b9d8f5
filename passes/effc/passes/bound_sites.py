"""Which activations a bound can stand behind, and how it gets there: what FT-ClipAct, FitAct and ProAct share.

    before: relu -> linear
    after:  relu -> bound(None, upper, "zero") -> linear

- One-sided: ReLU, ReLU6, and clamps that begin at 0. They give nothing below 0, so a bound stores one tensor, `upper`.
- Two-sided: GELU, SiLU, leaky ReLU, ELU and others without an end on one side, also those that were exported as several operators
  (`activations`; the bound then stands behind the whole). They need a lower bound, too.

Left alone, with a word in the log: sigmoids, tanh and clamps with two ends, which bound themselves; pieces of a composed activation;
integers; what is computed from parameters alone; what is bounded already. No bound stands behind logits or any other value that is no
activation's result; behind a residual sum it stands where the sum's activation is.

A site is `last` where no other one is computed from its result: the activation in front of the classifier, one for every head. It is
found by a walk over the graph from its end, so that functional calls, shared modules and fused operators count like any other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, fx

from effc.errors import InternalError
from effc.ir import Edit, Program, keyword_arguments, source_of
from effc.ir.ops.bound import BOUND
from effc.passes.activations import ACTIVATIONS, composed_activations
from effc.passes.base import Context, Pass

__all__ = ["BoundNames", "BoundSite", "Bounds", "Extremes", "bound_sites", "insert_bounds"]

_aten = torch.ops.aten
Mode = Literal["clamp", "zero"]

_RELUS = frozenset({_aten.relu.default, _aten.relu_.default, _aten.relu6.default})
_CLAMPS = frozenset({_aten.clamp.default, _aten.clamp_min.default, _aten.hardtanh.default, _aten.hardtanh_.default})
_BOUNDED = frozenset({_aten.sigmoid.default, _aten.hardsigmoid.default, _aten.tanh.default})
_DEPTH = 16  # operators of one composed activation


@dataclass(frozen=True)
class BoundSite:
    """An activation that a bound can stand behind.

    Attributes:
        node: its result, in the program that was searched.
        label: the user's name for it; where a module has several, the graph's name is added. No two sites have the same.
        two_sided: whether it has negative results, which need a lower bound.
        last: whether no other site is computed from it.
    """

    node: fx.Node
    label: str
    two_sided: bool
    last: bool

    @property
    def prefix(self) -> str:
        """What a sentence about the site begins with where its module has several."""
        return "" if self.label == source_of(self.node) else f"{self.label}: "

    @property
    def neurons(self) -> tuple[int, ...] | None:
        """The shape of one sample's result: of bounds per neuron. None where a size is not fixed."""
        shape = self.node.meta["val"].shape[1:]
        return tuple(int(size) for size in shape) if all(isinstance(size, int) for size in shape) else None


@dataclass(frozen=True)
class Bounds:
    """What shall stand behind one site.

    Attributes:
        lower: floating point; None for 0 without a stored number. `upper`: likewise. Both broadcast against the value without its batch
            axis: () for one bound a layer, (C, H, W) for one a neuron. They are stored in the value's dtype.
        mode: see `effc.ir.ops.bound`.
    """

    lower: Tensor | None
    upper: Tensor
    mode: Mode = "zero"


@dataclass(frozen=True)
class BoundNames:
    """The names under which a program stores a site's bounds, as in `Program.tensor_names`."""

    lower: str | None
    upper: str


class Extremes:
    """Watches a value's extremes per neuron (`effc.passes.profiling.observe`).

    Each batch is reduced over its own batch axis, and the result goes into running extremes: batches may differ in size, and no other
    axis is ever reduced.

    Attributes:
        minimum, maximum: of the shape of one sample, in the value's dtype; None before the first batch. NaN where a value was NaN.
    """

    def __init__(self) -> None:
        self.minimum: Tensor | None = None
        self.maximum: Tensor | None = None

    def see(self, value: Tensor) -> None:
        if not len(value):
            return
        low, high = value.amin(0), value.amax(0)
        self.minimum = low if self.minimum is None else torch.minimum(self.minimum, low)
        self.maximum = high if self.maximum is None else torch.maximum(self.maximum, high)


def bound_sites(program: Program, by: Pass, context: Context) -> list[BoundSite]:
    """The sites of a program, in execution order; those left alone go to the context's log, in the name of `by`."""
    composed = composed_activations(program)
    pieces = _pieces(program, composed)
    found: dict[fx.Node, bool] = {}
    of_inputs = _from_inputs(program)
    for node in program.nodes:
        if node.target not in ACTIVATIONS and node.name not in composed:
            continue
        why_not = _obstacle(node, pieces) if node in of_inputs else "does not depend on an input: it is the same for all samples"
        if why_not:
            context.log(by, node, False, why_not)
        else:
            found[node] = node.name in composed or not (node.target in _RELUS or _ends(node)[0] == 0)
    before_others = _before_others(program, found)
    bounded = {node for node in found if _is_bounded(node)}
    for node in bounded:
        context.log(by, node, False, "is bounded already")
    labels = _labels(list(found))
    return [BoundSite(node, labels[node], two_sided, node not in before_others) for node, two_sided in found.items() if node not in bounded]


def insert_bounds(
    program: Program, sites: Sequence[BoundSite], bounds: Mapping[str, Bounds], prefix: str
) -> tuple[Program, dict[str, BoundNames]]:
    """Put bounds behind sites.

    Args:
        program: the one that the sites were found in.
        sites: those without an entry in `bounds` are left as they are.
        bounds: by label.
        prefix: of the new tensors' names: `layer1.0.relu.proact_upper`.

    Returns:
        The program, and the names of the new tensors by label.

    Raises:
        InternalError: bounds have a label that no site has.
    """
    unknown = sorted(bounds.keys() - {site.label for site in sites})
    if unknown:
        raise InternalError(f"there are bounds for {', '.join(unknown)}, but no such site")
    edit = Edit(program)
    stored: dict[str, tuple[fx.Node | None, fx.Node]] = {}
    for site in sites:
        wanted = bounds.get(site.label)
        if wanted is None:
            continue
        node = edit.node(site.node.name)
        kind = node.meta["val"].dtype
        lower = None if wanted.lower is None else edit.add_tensor(f"{site.label}.{prefix}_lower", wanted.lower.to(kind))
        upper = edit.add_tensor(f"{site.label}.{prefix}_upper", wanted.upper.to(kind))
        new = edit.call(BOUND.overload, (node, lower, upper, wanted.mode), like=node)
        edit.replace(node, new, but_not={new})
        stored[site.label] = lower, upper
    result = edit.done()
    names = result.tensor_names
    return result, {
        label: BoundNames(None if lower is None else names[lower.name], names[upper.name]) for label, (lower, upper) in stored.items()
    }


def _obstacle(node: fx.Node, pieces: Mapping[fx.Node, str]) -> str:
    """Why an activation is no site; empty where it is one."""
    value = node.meta["val"]
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return "gives integers, not floating-point numbers"
    if value.ndim == 0:
        return "gives one number, not one for each sample"
    if node in pieces:
        return f"is a piece of the {pieces[node]}"
    low, high = _ends(node)
    if node.target in _BOUNDED or (low not in (None, 0) and high is not None):
        ends = "" if low is None else f" in [{low:g}, {high:g}]"
        return f"keeps its results{ends} by itself"
    return ""


def _ends(node: fx.Node) -> tuple[float | None, float | None]:
    """The ends of a clamp; None for one that it has not, or that is computed."""
    if node.target not in _CLAMPS:
        return None, None
    arguments = keyword_arguments(node)
    low, high = arguments.get("min", arguments.get("min_val")), arguments.get("max", arguments.get("max_val"))
    return float(low) if isinstance(low, int | float) else None, float(high) if isinstance(high, int | float) else None


def _pieces(program: Program, composed: Mapping[str, str]) -> dict[fx.Node, str]:
    """The nodes inside of composed activations, and in which they are.

    What is activated is read twice, by the product and by the gate, and all ways back meet there: what lies behind it is inside.
    """
    order = {node: place for place, node in enumerate(program.graph.nodes)}
    stored = program.tensors
    inside: dict[fx.Node, str] = {}
    for result in program.nodes:
        if result.name not in composed:
            continue
        front, passed = {result}, list[fx.Node]()
        while len(passed) < _DEPTH and (len(front) > 1 or not passed or len(next(iter(front)).users) == 1):
            latest = max(front, key=order.__getitem__)
            passed.append(latest)
            front = (front - {latest}) | {node for node in latest.all_input_nodes if node.name not in stored}
            if not front:
                break
        if len(front) == 1:
            inside |= {node: f"{composed[result.name]} at {source_of(result)}" for node in passed[1:]}
    return inside


def _from_inputs(program: Program) -> set[fx.Node]:
    """The nodes whose values depend on the program's inputs."""
    found = set(program.input_nodes.values())
    for node in program.nodes:
        if any(one in found for one in node.all_input_nodes):
            found.add(node)
    return found


def _before_others(program: Program, sites: Mapping[fx.Node, bool]) -> set[fx.Node]:
    """The nodes from whose results some site is computed."""
    before: set[fx.Node] = set()
    for node in reversed(list(program.graph.nodes)):
        if any(user in before or user in sites for user in node.users):
            before.add(node)
    return before


def _is_bounded(node: fx.Node) -> bool:
    return bool(node.users) and all(user.target == BOUND.overload and user.args[0] is node for user in node.users)


def _labels(nodes: Sequence[fx.Node]) -> dict[fx.Node, str]:
    uses = Counter(source_of(node) for node in nodes)
    labels: dict[fx.Node, str] = {}
    taken = set(uses)
    for node in nodes:
        source = source_of(node)
        label = source if uses[source] == 1 else f"{source}.{node.name}"
        while uses[source] > 1 and label in taken:
            label += "_"
        taken.add(label)
        labels[node] = label
    return labels
