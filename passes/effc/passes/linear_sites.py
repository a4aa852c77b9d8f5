"""Where a program multiplies an activation with a stored matrix, and which of these places a sparsity pass may touch.

A site is `aten.linear`, or `matmul`, `mm` or `addmm` whose second factor is a stored matrix (what ONNX's MatMul becomes), transposed or
not.

The head is a site from whose result no other layer is computed: its result only goes to an output. TEAL leaves it dense (arXiv
2408.14690), and so do all passes that ask `inner_sites`. (A projection whose result is an output as well as an attention's input, as the
keys of a cache are, is no head.)

Sites belong to one block where their names do: a block is called like the user's name of the site up to its first part that is a
number (`model.layers.3.mlp.up` is in `model.layers.3`). Where that name has no number, the name of the stored weight is asked; where that
has none either, the site is a block of its own, and a budget per block is a budget per site.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, fx

from effc.errors import ConfigError, Problem
from effc.ir import Program, source_of
from effc.passes.base import Context, Pass

__all__ = [
    "TRANSPOSES",
    "LinearSite",
    "block_of",
    "check_layers",
    "chosen",
    "inner_sites",
    "is_rotation",
    "leads_to_layers",
    "linear_sites",
]

_aten = torch.ops.aten
_INPUT_AT: dict[object, int] = {_aten.linear.default: 0, _aten.matmul.default: 0, _aten.mm.default: 0, _aten.addmm.default: 1}
TRANSPOSES = frozenset({_aten.t.default, _aten.numpy_T.default, _aten.transpose.int, _aten.permute.default})
_OTHER_LAYERS = re.compile(r"(aten\.(conv|lstm|gru|rnn)|effc\.(conv|matmul|qlinear))")


class _Site(Protocol):
    @property
    def node(self) -> fx.Node: ...

    @property
    def label(self) -> str: ...


T = TypeVar("T", bound=_Site)


@dataclass(frozen=True, eq=False)
class LinearSite:
    """One product of an activation and a stored matrix.

    Attributes:
        node: the product.
        position: of the activation among the node's arguments.
        weight: the matrix as (outputs, inputs), whichever way round it is stored.
        stored: the source's name of the matrix.
        block: see the module docstring.
        label: the user's name, or that of the matrix where one module has several sites.
    """

    node: fx.Node
    position: int
    weight: Tensor
    stored: str
    block: str
    label: str

    @property
    def name(self) -> str:
        """The node's name, by which sites are told apart."""
        return str(self.node.name)

    @property
    def source(self) -> str:
        """The user's name."""
        return source_of(self.node)

    @property
    def prefix(self) -> str:
        """What a sentence about the site begins with where its module has several."""
        return "" if self.label == self.source else f"{self.label}: "

    @property
    def input(self) -> fx.Node:
        """The activation."""
        found = self.node.args[self.position]
        assert isinstance(found, fx.Node)
        return found

    @property
    def bytes(self) -> int:
        """What the matrix takes in memory."""
        return self.weight.numel() * self.weight.element_size()


def linear_sites(program: Program) -> list[LinearSite]:
    """All sites in execution order, the head included. Only floating-point ones."""
    found = []
    for node in program.nodes:
        position = _INPUT_AT.get(node.target)
        if position is None or len(node.args) < position + 2 or not isinstance(node.args[position], fx.Node):
            continue
        stored = _stored_matrix(program, node.args[position + 1])
        if stored is None or not stored[0].is_floating_point():
            continue
        weight, name = stored
        upright = weight if node.target == _aten.linear.default else weight.T
        found.append(LinearSite(node, position, upright, name, _block(node, name), source_of(node)))
    matrices = {(site.source, site.stored) for site in found}
    several = {source for source, count in Counter(source for source, _ in matrices).items() if count > 1}
    return [replace(site, label=site.stored) if site.source in several else site for site in found]


def is_rotation(site: LinearSite) -> bool:
    """Whether a site is the dense product that `rotate` has put there."""
    return re.search(r"\.rotation(_\d+)?$", site.stored) is not None


def inner_sites(program: Program, by: Pass, context: Context, layers: str) -> list[LinearSite]:
    """The sites that a pass may rewrite: all but the head and rotations, and of these the ones whose names `layers` matches.

    Args:
        program: what to search.
        by: who asks; the log says of each site that is left out why.
        context: holds the log.
        layers: a regular expression that is searched in the user's names; empty for all.

    Raises:
        ConfigError: `layers` matches no site.
    """
    sites = linear_sites(program)
    inner = leads_to_layers(program)
    for site in sites:
        if site.name not in inner:
            context.log(by, site.node, False, f"{site.prefix}is the head: its result feeds no other layer; stays dense")
        elif is_rotation(site):
            context.log(by, site.node, False, f"{site.prefix}is a rotation: stays dense")
    kept = [site for site in sites if site.name in inner and not is_rotation(site)]
    if not sites:
        context.log(by, program.provenance.source, False, "has no linear layer with a stored weight")
    return chosen(kept, by, context, layers)


def check_layers(layers: str) -> None:
    """Raise ValueError where the option is no regular expression."""
    try:
        re.compile(layers)
    except re.error as error:
        raise ValueError(f"layers is no regular expression: {error}") from error


def chosen(sites: list[T], by: Pass, context: Context, layers: str) -> list[T]:
    """Those whose names `layers` matches; see `inner_sites`."""
    if not layers:
        return sites
    kept = [site for site in sites if re.search(layers, site.label)]
    if not kept:
        names = ", ".join(dict.fromkeys(site.label for site in sites)) or "no such layer that the pass may rewrite"
        raise ConfigError(
            "the layers of a pass cannot be found", [Problem(by.name, f"layers={layers}", "matches none", f"there are: {names}")]
        )
    for site in sites:
        if site not in kept:
            context.log(by, site.node, False, f"is left out by layers={layers}")
    return kept


def leads_to_layers(program: Program) -> set[str]:
    """The names of the nodes from whose result another layer is computed."""
    layers = {site.name for site in linear_sites(program)}
    found: set[str] = set()
    for node in reversed(program.nodes):
        if any(user.name in found or user.name in layers or _OTHER_LAYERS.match(str(user.target)) for user in node.users):
            found.add(node.name)
    return found


def block_of(name: str) -> str:
    """The part of a user's name up to its first part that is a number; empty where there is none."""
    parts = re.split(r"([./])", name)
    first = next((index for index, part in enumerate(parts) if part.isdigit()), None)
    if first is None:  # `/blocks.0/mlp` has one between its dots, `/h_0/mlp` has none
        return ""
    return "".join(parts[: first + 1])


def _block(node: fx.Node, weight: str) -> str:
    return block_of(source_of(node)) or block_of(weight) or node.name


def _stored_matrix(program: Program, value: Any) -> tuple[Tensor, str] | None:
    """A stored tensor of two axes and its source name; looked at through transpositions."""
    if not isinstance(value, fx.Node):
        return None
    if value.target in TRANSPOSES:
        inner = _stored_matrix(program, value.args[0])
        swaps = value.target in (_aten.t.default, _aten.numpy_T.default) or _swaps(value)
        return None if inner is None else (inner[0].T if swaps else inner[0], inner[1])
    stored = program.tensors.get(value.name)
    return (stored.detach(), program.tensor_names[value.name]) if stored is not None and stored.ndim == 2 else None


def _swaps(node: fx.Node) -> bool:
    if node.target == _aten.permute.default:
        order = [axis % 2 for axis in node.args[1]]  # type: ignore[union-attr, operator]
        return order == [1, 0]
    first, second = node.args[1:3]
    return first % 2 != second % 2  # type: ignore[operator]
