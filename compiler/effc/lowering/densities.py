"""What is known of zeros, handed to the kernels: every product remembers how dense its left operand was on data.

A program's facts speak of the values of its own graph; lowering decomposes that graph and gives its nodes other names. A note in a node's
metadata survives that, as the user's names do.
"""

from __future__ import annotations

from torch import fx, ops

from effc.ir import Edit, Program
from effc.ir.ops.keep_top_k import KEEP_TOP_K
from effc.ir.ops.sparsify import SPARSIFY

__all__ = ["density_of", "mask_of", "with_densities"]

_aten = ops.aten
_DENSITY, _MASK = "effc_density", "effc_mask"
_FACTORS = (_aten.mul.Tensor,)
# Of zero these make zero: what is behind them is no denser.
_ZERO_KEEPING = frozenset(
    {
        *(_aten.gelu.default, _aten.silu.default, _aten.relu.default, _aten.tanh.default, _aten.neg.default),
        *(SPARSIFY.overload, KEEP_TOP_K.overload),
    }
)

_PRODUCTS = frozenset({_aten.linear.default, _aten.matmul.default, _aten.mm.default, _aten.addmm.default, _aten.mv.default})
# These hand the same elements on, so that they are as dense as what they take.
_CARRIERS = frozenset(
    {
        _aten.view.default,
        _aten.reshape.default,
        _aten.flatten.using_ints,
        _aten.unflatten.int,
        _aten.squeeze.default,
        _aten.squeeze.dim,
        _aten.squeeze.dims,
        _aten.unsqueeze.default,
        _aten.permute.default,
        _aten.transpose.int,
        _aten.dropout.default,
        _aten.clone.default,
        _aten.contiguous.default,
        _aten.alias.default,
        _aten.detach.default,
        _aten.to.dtype,
    }
)


def with_densities(program: Program) -> Program:
    """The same program; its products carry the density of their left operand, and of what their result is multiplied by, where the facts
    know it."""
    if not program.facts.values:
        return program
    edit = Edit(program)
    for node in edit.nodes:
        if node.target in _PRODUCTS:
            known = _known(node.args[1 if node.target == _aten.addmm.default else 0], program)
            if known is not None:
                _note(node, _DENSITY, known)
        elif node.target in _FACTORS:
            for one, other in (node.args, reversed(node.args)):
                known, masked = _known(other, program), _product_behind(one)
                if known is not None and masked is not None:
                    _note(masked, _MASK, known)
    return edit.done()


def density_of(node: fx.Node) -> float | None:
    """How dense the left operand of the product was that a node of the decomposed program comes from; None where that is not known."""
    return node.meta.get("custom", {}).get(_DENSITY)  # type: ignore[no-any-return]


def mask_of(node: fx.Node) -> float | None:
    """The same of what the product's result is multiplied by."""
    return node.meta.get("custom", {}).get(_MASK)  # type: ignore[no-any-return]


def _product_behind(value: object) -> fx.Node | None:
    """The product whose result this is, and nothing else's operand."""
    while isinstance(value, fx.Node) and len(value.users) == 1 and value.target in _CARRIERS:
        value = value.args[0]
    return value if isinstance(value, fx.Node) and len(value.users) == 1 and value.target in _PRODUCTS else None


def _note(node: fx.Node, key: str, density: float) -> None:
    node.meta["custom"] = {**node.meta.get("custom", {}), key: density}


def _known(value: object, program: Program) -> float | None:
    """How dense a value was on data: as it was observed, or at most so where that follows from what it is made of."""
    if not isinstance(value, fx.Node):
        return None
    fact = program.facts.values.get(value.name)
    if fact is not None:
        return fact.density
    if value.target in _FACTORS:
        return min((known for one in value.args if (known := _known(one, program)) is not None), default=None)
    if value.target in _CARRIERS or value.target in _ZERO_KEEPING:
        return _known(value.args[0], program)
    return None
