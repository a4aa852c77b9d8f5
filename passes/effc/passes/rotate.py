"""Rotate: turn the inputs of linear layers so that what one of them adds does not depend on the others: WINA's transformation.

    before: linear(x, W, b)
    after:  linear(linear(x, V'), W V, b)        V orthogonal, V' its transpose: (W V)'(W V) is diagonal

Then dropping inputs adds exactly sum(x_i^2 |W_:,i|^2) to the squared error of the layer, which is what `wina`
sorts by: run it behind this pass. V holds the eigenvectors of the sum of W'W over the layers that read one input, which share the
product with V' (q, k and v; gate and up); the error is diagonal for these layers together.

This is exact but for rounding, and costs a product of inputs x inputs that stays dense: its bytes are counted against those of the
layers, and it does not fire where they are more than `max_cost` of them (a layer that narrows, as `down`, hardly ever qualifies). Nor
does it fire on the head, nor on what is rotated already.

Deviation: the paper folds the rotations of all layers into one another, along the residual stream, for which it needs two products a
block whose cost its tables leave open (and which are exact only for the layers that the stream feeds directly). Here each group of layers
has a rotation of its own, nothing else in the network changes, and the cost is in the plan like any other product's.

Tolerance: V is computed in float64 and rounded once, as are the new weights; the rotated inputs are rounded once more. Each makes a
relative error of 2^-24 of the largest terms; 1e-4 of the output's largest magnitude leaves room for some hundred layers.

Paper: S. Chen et al., "WINA: Weight Informed Neuron Activation for Accelerating Large Language Model Inference", arXiv 2505.19427.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from effc.ir import Edit, Program
from effc.passes.base import Context, Pass
from effc.passes.eliminate_dead import EliminateDead
from effc.passes.fold_batch_norm import FoldBatchNorm
from effc.passes.fold_constants import FoldConstants
from effc.passes.linear_sites import LinearSite, inner_sites, is_rotation, linear_sites

__all__ = ["Rotate"]

_aten = torch.ops.aten


@dataclass(frozen=True)
class Rotate(Pass):
    """Turn the inputs of linear layers so that `wina` knows what dropping one costs; adds a dense product.

    Attributes:
        max_cost: the largest share of the bytes of the layers' weights that a rotation may add.
        layers: a regular expression that is searched in the user's names of the layers; empty for all.
    """

    max_cost: float = 0.25
    layers: str = ""

    name: ClassVar[str] = "rotate"
    exact: ClassVar[bool] = True
    tolerance: ClassVar[float] = 1e-4
    after: ClassVar[tuple[type[Pass], ...]] = (EliminateDead, FoldConstants, FoldBatchNorm)

    def __post_init__(self) -> None:
        if not self.max_cost >= 0:
            raise ValueError("max-cost must not be negative")

    def run(self, program: Program, context: Context) -> Program:
        rotated = {site.name for site in linear_sites(program) if is_rotation(site)}
        groups: dict[str, list[LinearSite]] = {}
        for site in inner_sites(program, self, context, self.layers):
            if site.input.name in rotated:
                context.log(self, site.node, False, f"{site.prefix}its input is rotated already")
            else:
                groups.setdefault(site.input.name, []).append(site)
        edit = Edit(program)
        for sites in groups.values():
            width = sites[0].weight.shape[1]
            size = sum(site.bytes for site in sites)
            added = width * width * sites[0].weight.element_size()
            told = f"{added / 1000:,.1f} kB of weights for {size / 1000:,.1f} kB of {' and '.join(site.label for site in sites)}"
            fits = added <= self.max_cost * size
            if fits:
                _rotate(edit, sites)
            for site in sites:
                word = "inputs are rotated, which adds" if fits else f"a rotation is over max-cost {self.max_cost:g}: it would add"
                context.log(self, site.node, fits, f"{site.prefix}{word} {told}")
        return edit.done()


def _rotate(edit: Edit, sites: Sequence[LinearSite]) -> None:
    turn = _eigenvectors(sites)
    kind = sites[0].input.meta["val"].dtype
    first = edit.node(sites[0].name)
    stored = edit.add_tensor(f"{sites[0].label}.rotation", turn.T.to(kind))
    turned = edit.call(_aten.linear.default, (edit.node(sites[0].input.name), stored), like=first, before=first)
    for site in sites:
        node = edit.node(site.name)
        weight = (site.weight.double() @ turn).to(site.weight.dtype)
        new = edit.add_tensor(f"{site.label}.rotated", weight if node.target == _aten.linear.default else weight.T)
        node.update_arg(site.position, turned)
        node.update_arg(site.position + 1, new)


def _eigenvectors(sites: Sequence[LinearSite]) -> Tensor:
    """Orthogonal float64 (inputs, inputs), as columns; the largest element of each is positive, so that signs are no accident."""
    product = torch.stack([site.weight.double().T @ site.weight.double() for site in sites]).sum(0)
    vectors: Tensor = torch.linalg.eigh(product).eigenvectors
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return vectors * torch.where(largest < 0, -1.0, 1.0)
