"""Half-weights: store the matrices of linear layers in 16 bits, and compute in float32.

    before: linear(x, W: f32, b)
    after:  linear(x, to(W16: bf16, float32), b)

The time of a product of one row is the time that its weights take from memory: half the bytes are half the time. Sums stay in float32;
compiled code makes a float32 of each weight as it reads it, and no float32 copy of the matrix is kept. `bfloat16` keeps float32's range
and 8 bits of precision (a weight moves by 2^-9 of itself at most), `float16` 11 bits up to 65504.

Does not fire on a matrix that something else than a linear layer reads as well (an embedding that is also the head: it would be stored
twice), on one that is not float32, and, with float16, on one with an element beyond its range. Convolutions stay as they are. Comes after
passes that look at the weights of linear layers.

Rounding weights changes the function: the pass is not exact, and the gate judges it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import fx, ops

from effc.ir import Edit, Program
from effc.passes.base import Context, Pass
from effc.passes.eliminate_dead import EliminateDead
from effc.passes.fatrelu import Fatrelu
from effc.passes.fold_batch_norm import FoldBatchNorm
from effc.passes.fold_constants import FoldConstants
from effc.passes.linear_sites import TRANSPOSES, LinearSite, check_layers, chosen, linear_sites
from effc.passes.profile import Profile
from effc.passes.prune import Prune
from effc.passes.rotate import Rotate
from effc.passes.statistical_topk import StatisticalTopk
from effc.passes.teal import Teal
from effc.passes.topk import Topk
from effc.passes.wina import Wina

__all__ = ["HalfWeights"]

_TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class HalfWeights(Pass):
    """Store the matrices of linear layers in 16 bits; sums stay in float32.

    Attributes:
        dtype: `bfloat16` or `float16`.
        layers: a regular expression that is searched in the user's names of the layers; empty for all.
    """

    dtype: Literal["bfloat16", "float16"] = "bfloat16"
    layers: str = ""

    name: ClassVar[str] = "half-weights"
    exact: ClassVar[bool] = False
    after: ClassVar[tuple[type[Pass], ...]] = (
        EliminateDead,
        FoldConstants,
        Prune,
        FoldBatchNorm,
        Profile,
        Rotate,
        Teal,
        Wina,
        Topk,
        StatisticalTopk,
        Fatrelu,
    )

    def __post_init__(self) -> None:
        check_layers(self.layers)

    def run(self, program: Program, context: Context) -> Program:
        edit = Edit(program)
        narrow: dict[str, fx.Node] = {}
        sites = chosen(linear_sites(program), self, context, self.layers)
        if not sites:
            context.log(self, program.provenance.source, False, "has no linear layer with a stored weight in float32")
        for site in sites:
            why = self._not(site, {one.name for one in sites})
            if why:
                context.log(self, site.node, False, f"{site.prefix}{why}")
                continue
            node = edit.node(site.name)
            given = node.args[site.position + 1]
            assert isinstance(given, fx.Node)
            matrix = _placeholder(given)
            if matrix.name not in narrow:
                stored = edit.tensor(matrix)
                assert stored is not None
                half = edit.add_tensor(f"{site.stored}_{self.dtype}", stored.detach().to(_TYPES[self.dtype]))
                wide = edit.call(ops.aten.to.dtype, (half, torch.float32), like=half)
                narrow[matrix.name] = wide
                edit.replace(matrix, wide)
            context.log(
                self, site.node, True, f"{site.prefix}{site.bytes / 1000:,.1f} kB of weights are stored in {site.bytes / 2000:,.1f} kB"
            )
        return edit.done()

    def _not(self, site: LinearSite, names: set[str]) -> str:
        """Why a site's matrix stays as it is; empty where it does not."""
        if site.weight.dtype != torch.float32:
            return f"its weights are {site.weight.dtype}".replace("torch.", "") + " already"
        given = site.node.args[site.position + 1]
        assert isinstance(given, fx.Node)
        others = _readers(_placeholder(given)) - names
        if others:
            return "its weights are read by something else as well, and would be stored twice"
        largest = float(site.weight.abs().max()) if site.weight.numel() else 0.0
        if largest > torch.finfo(_TYPES[self.dtype]).max:
            return f"a weight of {largest:.4g} is beyond the range of {self.dtype}"
        return ""


def _placeholder(value: fx.Node) -> fx.Node:
    """The stored tensor behind transpositions."""
    while value.op != "placeholder":
        inner = value.args[0]
        assert isinstance(inner, fx.Node)
        value = inner
    return value


def _readers(matrix: fx.Node) -> set[str]:
    """The names of the nodes that read a stored matrix, behind its transpositions."""
    found: set[str] = set()
    for user in matrix.users:
        found |= _readers(user) if user.target in TRANSPOSES else {user.name}
    return found
