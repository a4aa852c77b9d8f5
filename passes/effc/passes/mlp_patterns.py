"""The feed-forward parts of networks: where an activation of one linear layer feeds another.

    plain    down(act(first(x)))                  V act(K^T x)
    gated    down(act(gate(x)) * up(x))           SwiGLU, GEGLU, ReGLU, GLU

`gate` and `up` may be halves of one layer that is split behind. What exporters put between is looked through: a bias that is added,
copies, dropout, bounds, and reshapes that keep the last axis. Activations may be composed of several operators
(`effc.passes.activations`).
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from effc.ir import Program, source_of
from effc.ir.ops.bound import BOUND
from effc.ir.ops.keep_top_k import KEEP_TOP_K
from effc.ir.ops.statistical_top_k import STATISTICAL_TOP_K
from effc.passes.activations import ACTIVATIONS, composed_activations
from effc.passes.linear_sites import LinearSite, linear_sites

__all__ = ["Mlp", "keeps_zero", "mlps", "steps", "through"]

_aten = torch.ops.aten
_COPIES = frozenset(
    {
        _aten.dropout.default,
        _aten.clone.default,
        _aten.contiguous.default,
        _aten.alias.default,
        _aten.detach.default,
        _aten.to.dtype,
        BOUND.overload,
        KEEP_TOP_K.overload,
        STATISTICAL_TOP_K.overload,
    }
)
_RESHAPES = frozenset(
    {
        _aten.view.default,
        _aten.reshape.default,
        _aten.flatten.using_ints,
        _aten.unflatten.int,
        _aten.squeeze.dim,
        _aten.unsqueeze.default,
    }
)
_PARTS = frozenset(
    {operator.getitem, _aten.split.Tensor, _aten.split_with_sizes.default, _aten.chunk.default, _aten.slice.Tensor, _aten.narrow.default}
)
_DEPTH = 16  # operators of one composed activation


@dataclass(frozen=True, eq=False)
class Mlp:
    """One feed-forward part.

    Attributes:
        down: the layer that reads the sparse value.
        first: the layer whose result is activated: the gate of a gated one.
        up: the other factor's layer; None for a plain one.
        activation: the node that holds the activation's result.
        pre: what is activated, its bias added.
        inside: the nodes from `pre` (left out) to the activation, in execution order.
        product: of the activation and `up`; None for a plain one.
        at: which argument of the product (gated) or of `down` (plain) leads to the activation.
    """

    down: LinearSite
    first: LinearSite
    up: LinearSite | None
    activation: fx.Node
    pre: fx.Node
    inside: tuple[fx.Node, ...]
    product: fx.Node | None
    at: int

    @property
    def node(self) -> fx.Node:
        return self.activation

    @property
    def name(self) -> str:
        return str(self.activation.name)

    @property
    def label(self) -> str:
        """The user's name."""
        return source_of(self.activation)

    @property
    def skips(self) -> int:
        """Bytes of weights that are not needed where the activation is zero: those of `down`, and of `up`."""
        up = 0 if self.up is None else self.up.bytes * self.width // self.up.weight.shape[0]
        return self.down.bytes + up

    @property
    def width(self) -> int:
        """Length of a row of the activation."""
        return int(self.activation.meta["val"].shape[-1])


def mlps(program: Program) -> list[Mlp]:
    """All feed-forward parts in execution order."""
    reader = _Reader(program)
    return [found for site in linear_sites(program) if (found := reader.read(site)) is not None]


def keeps_zero(program: Program, part: Mlp) -> bool:
    """Whether a zero of `pre` becomes a zero of the activation: tried, on a row of zeros."""
    values: dict[fx.Node, Any] = {part.pre: torch.zeros(1, part.width, dtype=part.pre.meta["val"].dtype)}
    with torch.no_grad():
        for node in part.inside:
            known = {one: values[one] if one in values else program.tensors[one.name] for one in node.all_input_nodes}
            args, kwargs = fx.map_arg((node.args, node.kwargs), known.__getitem__)
            values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
    return not bool(torch.count_nonzero(values[part.activation]))


def steps(node: fx.Node) -> Iterator[fx.Node]:
    """A value, and the nodes whose rows it holds: behind copies, bounds, top-k and reshapes that keep the last axis."""
    yield node
    while node.target in _COPIES or (node.target in _RESHAPES and _keeps_last_axis(node)):
        inner = node.args[0]
        if not isinstance(inner, fx.Node):
            return
        node = inner
        yield node


def through(node: fx.Node) -> fx.Node:
    """The last of `steps`."""
    *_, last = steps(node)
    return last


def _keeps_last_axis(node: fx.Node) -> bool:
    inner = node.args[0]
    if not isinstance(inner, fx.Node):
        return False
    before, after = inner.meta["val"].shape, node.meta["val"].shape
    return bool(before and after and isinstance(before[-1], int) and before[-1] == after[-1])


class _Reader:
    def __init__(self, program: Program) -> None:
        self._sites: Mapping[str, LinearSite] = {site.name: site for site in linear_sites(program)}
        self._nodes = program.nodes
        self._stored = program.tensors
        self._composed = composed_activations(program)

    def read(self, down: LinearSite) -> Mlp | None:
        """The part that ends in a layer; None where there is none."""
        value = through(down.input)
        if self._is_activation(value):
            return self._plain(down, value)
        if value.target != _aten.mul.Tensor:
            return None
        for at in (0, 1):
            factor, other = value.args[at], value.args[1 - at]
            if isinstance(factor, fx.Node) and isinstance(other, fx.Node) and self._is_activation(through(factor)):
                found = self._gated(down, value, at, through(factor), other)
                if found is not None:
                    return found
        return None

    def _plain(self, down: LinearSite, activation: fx.Node) -> Mlp | None:
        pre = self._activated(activation)
        return None if pre is None else Mlp(down, pre[1], None, activation, pre[0], pre[2], None, down.position)

    def _gated(self, down: LinearSite, product: fx.Node, at: int, activation: fx.Node, other: fx.Node) -> Mlp | None:
        pre, up = self._activated(activation), self._layer(other)
        if pre is None or up is None or activation.meta["val"].shape != other.meta["val"].shape:
            return None
        return Mlp(down, pre[1], up, activation, pre[0], pre[2], product, at)

    def _is_activation(self, node: fx.Node) -> bool:
        return node.target in ACTIVATIONS or node.name in self._composed

    def _activated(self, activation: fx.Node) -> tuple[fx.Node, LinearSite, tuple[fx.Node, ...]] | None:
        """What an activation is of, its layer, and who reads it; None where this is not the result of one linear layer."""
        roots: dict[fx.Node, LinearSite] = {}
        pending, inside = [activation], {activation: None}
        while pending:
            node = pending.pop()
            for argument in node.all_input_nodes:
                if argument.name in self._stored or argument in roots:
                    continue
                site = self._layer(argument)
                if site is not None:
                    roots[argument] = site
                elif argument.op != "call_function" or len(inside) > _DEPTH:
                    return None
                elif argument not in inside:
                    inside[argument] = None
                    pending.append(argument)
        if len(roots) != 1:
            return None
        ((pre, site),) = roots.items()
        return pre, site, tuple(node for node in self._nodes if node in inside)

    def _layer(self, node: fx.Node) -> LinearSite | None:
        """The linear layer whose result a value is, its bias added, whole or a part of it."""
        for _ in range(_DEPTH):
            node = through(node)
            if node.name in self._sites:
                return self._sites[node.name]
            if node.target in _PARTS:
                following = node.args[0]
            elif node.target == _aten.add.Tensor:
                following = self._biased(node)
            else:
                return None
            if not isinstance(following, fx.Node):
                return None
            node = following
        return None

    def _biased(self, node: fx.Node) -> fx.Node | None:
        """Of a sum of a value and a stored vector as long as its rows: the value."""
        width = node.meta["val"].shape[-1] if node.meta["val"].ndim else None
        for value, bias in (node.args[:2], node.args[1::-1]):
            stored = self._stored.get(bias.name) if isinstance(bias, fx.Node) else None
            if isinstance(value, fx.Node) and isinstance(stored, Tensor) and stored.ndim <= 1 and stored.numel() == width:
                return value
        return None
