"""The weights that pruning is about: stored floating-point tensors of convolutions and linear layers (`linear_sites`)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import Tensor, fx

from effc.ir import Program, keyword_arguments, source_of
from effc.passes.linear_sites import leads_to_layers, linear_sites

__all__ = ["PrunableWeight", "prunable_layers", "prunable_weights", "stored"]

_CONVOLUTION = re.compile(r"aten\.conv(_transpose)?[123]d\.")


@dataclass(frozen=True, eq=False)
class PrunableWeight:
    """One stored tensor.

    Attributes:
        node: a layer that uses it.
        label: the layer in the user's words.
        name: the source's name of the tensor.
        axis: of the tensor that counts the layer's outputs; None for a grouped transposed convolution, where no axis does.
        head: whether that layer feeds no other: each of its outputs is one of the program.
    """

    node: fx.Node
    label: str
    name: str
    axis: int | None
    head: bool


def prunable_layers(program: Program) -> list[PrunableWeight]:
    """Of all convolutions and linear layers in execution order; a tensor that several use is there for each."""
    leading = leads_to_layers(program)
    linear = {site.name: site for site in linear_sites(program)}
    tensors = stored(program)
    found = []
    for node in program.nodes:
        if node.name in linear:
            site = linear[node.name]
            whole = tensors[site.stored]
            upright = (whole.shape, whole.stride()) == (site.weight.shape, site.weight.stride())
            found.append(PrunableWeight(node, site.label, site.stored, 0 if upright else 1, node.name not in leading))
        elif _CONVOLUTION.match(str(node.target)):
            weight = node.args[1]
            name = program.tensor_names.get(weight.name, "") if isinstance(weight, fx.Node) else ""
            if name in tensors and tensors[name].is_floating_point():
                found.append(PrunableWeight(node, source_of(node), name, _axis(node), node.name not in leading))
    return found


def prunable_weights(program: Program) -> list[PrunableWeight]:
    """The same, each tensor once: for the first layer that uses it, or for a head that does."""
    found: dict[str, PrunableWeight] = {}
    for one in prunable_layers(program):
        if one.name not in found or (one.head and not found[one.name].head):
            found[one.name] = one
    return list(found.values())


def stored(program: Program) -> dict[str, Tensor]:
    """All stored tensors by the source's names."""
    return {name: program.tensors[placeholder].detach() for placeholder, name in program.tensor_names.items()}


def _axis(node: fx.Node) -> int | None:
    if "transpose" not in str(node.target):
        return 0
    return 1 if keyword_arguments(node)["groups"] == 1 else None
