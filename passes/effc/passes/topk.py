"""Top-k: keep the k largest activations of every token: the lazy neurons' transformer.

    before: down(act(first(x)))                          down(act(gate(x)) * up(x))
    after:  down(effc::keep_top_k(act(first(x)), k))     down(effc::keep_top_k(act(gate(x)), k) * up(x))

k = round((1 - sparsity) * width), at least 1. In a plain part it stands behind the activation, as in the paper (section 4). A gated part,
which the paper does not treat, has it on the activated gate and not on the product: so the mask is known before `up`, whose rows are
skipped as well, and the largest values are kept, where a product with signed factors has large values of both signs that `keep_top_k`
would take for small. Zeros of the activation stay zero and count among the dropped: the density may be under 1 - sparsity.

Does not fire where the activation is no linear layer's, and where it has a top-k already. The layer
that reads may be the head: it is the hidden layer that becomes sparse.

Paper: Z. Li et al., "The Lazy Neuron Phenomenon: On Emergence of Activation Sparsity in Transformers", ICLR 2023, arXiv 2210.06313,
section 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from effc.ir import Edit, Program
from effc.ir.ops.keep_top_k import KEEP_TOP_K
from effc.passes.mlp_patterns import Mlp, steps
from effc.passes.quantiles import Quantiles
from effc.passes.row_pass import RowPass

__all__ = ["Topk"]


@dataclass(frozen=True)
class Topk(RowPass):
    """Keep the k largest activations of every row in feed-forward parts.

    Attributes: see `RowPass`.
    """

    name: ClassVar[str] = "topk"

    def obstacle(self, program: Program, part: Mlp) -> str:
        reader = part.down.node if part.product is None else part.product
        value = reader.args[part.at]
        assert isinstance(value, fx.Node)
        return "has a top-k already" if any(node.target == KEEP_TOP_K.overload for node in steps(value)) else ""

    def put(self, edit: Edit, part: Mlp, level: float, measured: Quantiles | None) -> str:
        reader = edit.node(part.down.name if part.product is None else part.product.name)
        value = reader.args[part.at]
        assert isinstance(value, fx.Node)
        k = max(1, round((1 - level) * part.width))
        reader.update_arg(part.at, edit.call(KEEP_TOP_K.overload, (value, k), like=edit.node(part.name), before=reader))
        return f"the {k} largest of {part.width} stay"
