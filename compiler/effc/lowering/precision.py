"""Products of other types than float32, which TVM's importer always accumulates and returns in float32.

float16 and bfloat16 are right that way, as long as the bias has the type of the sum: operands become float32, the result its own type.
float64 would lose half of its digits: matrix products keep it (`products` converts them), convolutions are refused there.

    before: addmm(b: f16, x: f16, w: f16) -> f16
    after:  addmm(f32(b), f32(x), f32(w)) -> f32, f16(...)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from effc.ir import Edit, Program

__all__ = ["widen"]

_aten = torch.ops.aten
_PRODUCTS = (
    *(_aten.mm.default, _aten.bmm.default, _aten.addmm.default, _aten.baddbmm.default, _aten.convolution.default),
    *(_aten.matmul.default, _aten.linear.default),
)
_NARROW = (torch.float16, torch.bfloat16)


def widen(program: Program) -> Program:
    """The program with half-precision products computed in float32 and rounded once, and float64 sums apart from their product."""
    edit = Edit(program)
    for node in edit.nodes:
        if node.target not in _PRODUCTS:
            continue
        kind = node.meta["val"].dtype
        if kind in _NARROW:
            _in_float32(edit, node, kind)
        elif kind == torch.float64 and node.target in (_aten.addmm.default, _aten.baddbmm.default):
            _apart(edit, node)
    return edit.done()


def _in_float32(edit: Edit, node: fx.Node, kind: torch.dtype) -> None:
    def wide(argument: Any) -> Any:
        if not isinstance(argument, fx.Node):
            return argument
        return edit.call(_aten._to_copy.default, (argument,), {"dtype": torch.float32}, like=node, before=node)

    node.args = tuple(wide(argument) for argument in node.args)
    node.meta["val"] = edit.fake_value(node)
    rounded = edit.call(_aten._to_copy.default, (node,), {"dtype": kind}, like=node)
    edit.replace(node, rounded, but_not={rounded})


def _apart(edit: Edit, node: fx.Node) -> None:
    """beta input + alpha (a @ b), without the importer's addition of two types."""
    bias, a, b = node.args[:3]
    product = _aten.mm.default if node.target == _aten.addmm.default else _aten.bmm.default
    total = edit.call(product, (a, b), like=node, before=node)
    for factor, name in ((node.kwargs.get("alpha", 1), "alpha"), (node.kwargs.get("beta", 1), "beta")):
        if factor != 1:
            scaled = edit.call(_aten.mul.Tensor, (total if name == "alpha" else bias, factor), like=node, before=node)
            total, bias = (scaled, bias) if name == "alpha" else (total, scaled)
    node.target, node.args, node.kwargs = _aten.add.Tensor, (total, bias), {}
