"""DeltaRNN: recurrent layers that multiply only what changed, the part of the pass `delta` for GRU, LSTM and plain RNN layers.

    before: i = linear(x, W, b)                    every product of the layer, with its input x or with its hidden state h
    after:  d     = effc::sparsify(x - seen, threshold, "magnitude")
            seen' = where(d != 0, x, seen)
            sum'  = sum + linear(d, W)             reads only the columns of W whose d is not zero
            i     = sum' + b

`seen` is what was multiplied so far (x-hat, h-hat) and `sum` = W seen (M without the biases). What is too small to be multiplied is not
lost: it stays in x - seen and goes through once it has grown, so that |x - seen| <= threshold always. The gates are as before. Where the
layer's hidden state is a state of the program, `seen` and `sum` become resident states; else they live inside the call, from step to step.

The zeros become time as those of any linear layer do: where the program's facts say how dense d is, a product whose row-skipping kernel is
predicted to be faster gets it (`effc.cost.skipping`).

Threshold 0 computes the plain layer up to the order in which products are added: a sum is made of many rounded updates. Their errors add up
like a random walk, after 10,000 steps to 3e-6 of a sum's largest magnitude and 2e-6 of the outputs (the test allows 1e-5), and a refresh
starts `seen` and `sum` from zero again, as the first call does.

Does not fire where a layer makes one step a call from a hidden state that is no state of the program, and where `recurrent_unrolling`
cannot write a layer out.

Deviations from the papers. Theirs fires at |x - seen| >= threshold, this one at > threshold, so that 0 means "changed at all". Their M_r
and M_u hold both products and start at the biases; here every product has a sum of its own, which starts at zero like all resident states,
and the biases are added at the gates. That is the same value with one more rounding, and in a GRU 2 x hidden more values of state; in
exchange each stored matrix stays one product.

Papers: D. Neil, J. H. Lee, T. Delbruck, S.-C. Liu, "Delta Networks for Optimized Recurrent Network Computation", ICML 2017, arXiv
1612.05571, equations 4 to 12; C. Gao, D. Neil, E. Ceolini, S.-C. Liu, T. Delbruck, "DeltaRNN: A Power-efficient Recurrent Neural Network
Accelerator", FPGA 2018.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from effc.errors import ConfigError, InternalError
from effc.ir import Edit, source_of
from effc.ir.ops.sparsify import SPARSIFY
from effc.passes.recurrent_sites import RecurrentSite
from effc.passes.recurrent_unrolling import Product, unroll

__all__ = ["CALLS", "Operands", "RecurrentDelta", "Thresholds", "rewrite_recurrent"]

_aten = torch.ops.aten
CALLS = "stream.calls"
"""The state that counts calls where a program has no other clock."""
_ROLES = {False: "input", True: "hidden"}


@dataclass(frozen=True)
class Thresholds:
    """How much an element may differ from what was multiplied, in its own unit: of a layer's input, and of its hidden state."""

    input: float
    hidden: float


@dataclass(frozen=True)
class Operands:
    """What a layer multiplies: its inputs, or its hidden states.

    Attributes:
        values: names of the nodes that hold them, in the order of the steps.
        differences: names of the nodes that hold what changed, likewise: their density decides what is skipped.
        matrices: (depth, columns) of each stored matrix that they are multiplied with.
    """

    values: tuple[str, ...]
    differences: tuple[str, ...]
    matrices: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class RecurrentDelta:
    """What became of one site.

    Attributes:
        site: its name before the rewrite.
        label: the user's name.
        inputs, hidden: what it multiplies.
        states: the names of its resident states.
    """

    site: str
    label: str
    inputs: Operands
    hidden: Operands
    states: tuple[str, ...]


def rewrite_recurrent(
    edit: Edit,
    sites: Sequence[RecurrentSite],
    thresholds: Mapping[str, Thresholds],
    *,
    clock: fx.Node | None = None,
    refresh: int = 0,
) -> list[RecurrentDelta]:
    """Let recurrent layers work on differences.

    Args:
        edit: of the program that the sites were found in; other nodes may have been inserted since.
        sites: what `recurrent_sites` found.
        thresholds: by site name; a site without one, or with a reason to stay dense, is left as it is.
        clock: int32 (N,), a node of `edit` that is 1 in a call that starts again from zero; it must come before all sites.
        refresh: calls from one start to the next where there is no `clock`; 0 for never.

    Returns:
        What was done, in the order of the sites. Nothing where no site is rewritten.

    Raises:
        ConfigError: a threshold is negative, infinite or NaN, or the refresh negative.
    """
    chosen = [site for site in sites if site.name in thresholds and not site.why_not]
    for site in chosen:
        limits = thresholds[site.name]
        if not all(math.isfinite(limit) and limit >= 0 for limit in (limits.input, limits.hidden)):
            raise ConfigError(f"{site.label}: thresholds are {limits.input} and {limits.hidden}, must be finite and at least 0")
    if refresh < 0:
        raise ConfigError(f"refresh is {refresh}, must be at least 0 (0: never)")
    rewriter = _Rewriter(edit, clock, refresh)
    return [rewriter.site(site, thresholds[site.name]) for site in chosen]


@dataclass(frozen=True)
class _Differences:
    """What products with one sequence of operands share: the nodes of d, and the resident state that holds `seen`."""

    nodes: tuple[fx.Node, ...]
    state: str


class _Rewriter:
    """Rewrites the sites of one edit; they share a clock."""

    def __init__(self, edit: Edit, clock: fx.Node | None, refresh: int) -> None:
        self._edit, self._clock, self._refresh = edit, clock, refresh
        self._fresh: list[fx.Node] = []  # whether this call starts from zero: (N,), and (N, 1); made at the first site, before all others
        self._folded: dict[fx.Node, fx.Node] = {}
        self._names: set[str] = set()

    def site(self, site: RecurrentSite, thresholds: Thresholds) -> RecurrentDelta:
        edit = self._edit
        if site.products:
            products = [Product(tuple(edit.node(one.name) for one in product.nodes), product.hidden) for product in site.products]
        else:
            products = unroll(edit, edit.node(site.name))
        limits = {}
        for hidden in sorted({product.hidden for product in products}):
            limit = torch.tensor(thresholds.hidden if hidden else thresholds.input, dtype=torch.float32)
            limits[hidden] = edit.add_tensor(f"{site.label}.delta_threshold_{_ROLES[hidden]}", limit)
        shared: dict[tuple[fx.Node, ...], _Differences] = {}
        matrices: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
        read: dict[bool, list[tuple[fx.Node, ...]]] = {False: [], True: []}
        states: list[str] = []
        for product in products:
            operands: tuple[fx.Node, ...] = tuple(one.args[0] for one in product.nodes)  # type: ignore[misc]
            columns, depth = product.nodes[0].args[1].meta["val"].shape  # type: ignore[union-attr]
            name = f"stream.{site.label}.{_ROLES[product.hidden]}"
            if operands not in shared:
                shared[operands] = self._differences(product.nodes, limits[product.hidden], name, site.streamed)
                read[product.hidden].append(operands)
                states += [shared[operands].state] * site.streamed
            states += self._sums(product.nodes, shared[operands].nodes, name, site.streamed)
            matrices[product.hidden].append((int(depth), int(columns)))

        def of(hidden: bool) -> Operands:
            values = tuple(node.name for operands in read[hidden] for node in operands)
            return Operands(values, tuple(node.name for one in read[hidden] for node in shared[one].nodes), tuple(matrices[hidden]))

        return RecurrentDelta(site.name, site.label, of(False), of(True), tuple(states))

    def _differences(self, products: Sequence[fx.Node], limit: fx.Node, name: str, streamed: bool) -> _Differences:
        """d of every step: inserted before the product that reads it."""
        state, seen = "", None
        found: list[fx.Node] = []
        for node in products:
            x = node.args[0]
            assert isinstance(x, fx.Node)
            if streamed and not found:
                state = self._free(f"{name}.seen")
                seen = self._old(self._edit.add_state(state, x, resident=True), node)
            moved = x if seen is None else self._call(_aten.sub.Tensor, x, seen, before=node)
            d = self._call(SPARSIFY.overload, moved, limit, "magnitude", before=node)
            fires = self._call(_aten.ne.Scalar, d, 0, before=node)
            seen = d if seen is None else self._call(_aten.where.self, fires, x, seen, before=node)
            found.append(d)
        if streamed and seen is not None:
            self._edit.write_state(state, seen)
        return _Differences(tuple(found), state)

    def _sums(self, products: Sequence[fx.Node], differences: Sequence[fx.Node], name: str, streamed: bool) -> list[str]:
        """Replace products by sums of products with differences; the names of their states."""
        names, total = [], None
        for node, d in zip(products, differences, strict=True):
            if streamed and total is None:
                names.append(self._free(f"{name}.sum"))
                total = self._old(self._edit.add_state(names[0], node, resident=True), node)
            weight, bias = (self._stored(one) for one in (*node.args[1:], None)[:2])
            part = self._call(_aten.linear.default, d, weight, before=node)
            total = part if total is None else self._call(_aten.add.Tensor, total, part, before=node)
            self._edit.replace(node, total if bias is None else self._call(_aten.add.Tensor, total, bias, before=node))
            self._edit.erase(node)
        if streamed and total is not None:
            self._edit.write_state(names[0], total)
        return names

    def _old(self, state: fx.Node, node: fx.Node) -> fx.Node:
        """A resident state as a step starts with it: zero where the clock says so."""
        if self._clock is None and self._refresh:
            self._clock = self._own_clock(state, node)
        if self._clock is None:
            return state
        axes = state.meta["val"].ndim
        if not self._fresh:
            self._fresh = [self._call(_aten.eq.Scalar, self._clock, 1, before=node)]
            self._fresh.append(self._call(_aten.unsqueeze.default, self._fresh[0], -1, before=node))
        return self._call(_aten.where.ScalarSelf, self._fresh[axes - 1], 0.0, state, before=node)

    def _own_clock(self, like: fx.Node, node: fx.Node) -> fx.Node:
        """A resident state (N,) that counts 1, 2, ..., refresh, 1, ..."""
        row = like if like.meta["val"].ndim == 1 else self._call(_aten.select.int, like, -1, 0, before=node)
        ones = row if row is not like else self._call(_aten.slice.Tensor, like, -1, 0, 1, before=node)
        name = self._free(CALLS)
        clock = self._edit.add_state(name, self._call(_aten.to.dtype, ones, torch.int32, before=node), resident=True)
        turned = self._call(_aten.remainder.Scalar, clock, self._refresh, before=node)
        new = self._call(_aten.add.Tensor, turned, 1, before=node)
        self._edit.write_state(name, new)
        return new

    def _stored(self, value: object) -> fx.Node | None:
        """A weight or bias as one stored tensor: the importer orders gates in the graph, which no row-skipping kernel reads through."""
        if not isinstance(value, fx.Node) or value.op == "placeholder":
            return value  # type: ignore[return-value]
        if value not in self._folded:
            self._folded[value] = self._edit.add_tensor(f"{source_of(value)}.folded", _computed(self._edit, value))
        return self._folded[value]

    def _call(self, target: Callable[..., Any], *args: Any, before: fx.Node) -> fx.Node:
        return self._edit.call(target, args, like=before, before=before)

    def _free(self, name: str) -> str:
        """A name that no state has yet."""
        found, number = name, 0
        while found in self._names:
            number += 1
            found = f"{name}.{number}"
        self._names.add(found)
        return found


def _computed(edit: Edit, node: fx.Node) -> Any:
    """The value of a node that depends on stored tensors alone."""
    if node.op == "placeholder":
        stored = edit.tensor(node)
        if stored is None:
            raise InternalError(f"{node.name} is no stored tensor")
        return stored.detach()
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda one: _computed(edit, one))
    with torch.no_grad():
        return node.target(*args, **kwargs)  # type: ignore[operator]
