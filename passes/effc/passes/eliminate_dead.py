"""Remove what has no effect on the outputs.

    before: conv -> dropout(train=False) -> clone -> relu; a product that nothing uses; a weight that nothing uses
    after:  conv -> relu

Dropped are nodes and stored tensors without users, and nodes that hand their input on unchanged: dropout at inference, clone, detach,
casts to the dtype that is there, and reshapes to the shape that is there. Not touched: anything that computes, even on constants
(`fold-constants`). Inputs and outputs stay, used or not. Bit for bit exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from effc.ir import Edit, Program, keyword_arguments, source_of
from effc.passes.base import Context, Pass

__all__ = ["EliminateDead"]

_aten = torch.ops.aten
_COPIES = frozenset(
    {
        _aten.clone.default,
        _aten.detach.default,
        _aten.detach_.default,
        _aten.alias.default,
        _aten.contiguous.default,
        _aten.lift_fresh_copy.default,
    }
)
_CASTS = frozenset({_aten.to.dtype, _aten.to.device, _aten.to.dtype_layout, _aten._to_copy.default, _aten.type_as.default})
_SHAPES = frozenset({_aten.view.default, _aten.reshape.default, _aten.flatten.using_ints, _aten.expand.default, _aten.squeeze.default})


@dataclass(frozen=True)
class EliminateDead(Pass):
    """Remove nodes and stored tensors that have no effect on the outputs."""

    name: ClassVar[str] = "eliminate-dead"
    exact: ClassVar[bool] = True

    def run(self, program: Program, context: Context) -> Program:
        edit = Edit(program)
        for node in edit.nodes:
            why = _no_effect(node)
            if why:
                edit.replace(node, node.all_input_nodes[0])
                context.log(self, node, True, why)
        for node in reversed(edit.nodes):  # fx keeps unused random operators, dropout among them
            if not node.users and isinstance(node.target, torch._ops.OpOverload) and not node.target._schema.is_mutable:
                edit.erase(node)
        result = edit.done()
        self._log_unused(program, result, context)
        return result

    def _log_unused(self, before: Program, after: Program, context: Context) -> None:
        kept = {node.name for node in after.nodes}
        logged = {decision.site for decision in context.decisions if decision.pass_name == self.name}
        for node in before.nodes:
            if node.name not in kept and source_of(node) not in logged:
                context.log(self, node, True, "nothing uses its result")
        stored = set(after.tensor_names.values())
        for name in before.tensor_names.values():
            if name not in stored:
                context.log(self, name, True, "nothing reads this stored tensor")


def _no_effect(node: fx.Node) -> str:
    """Why a node only hands on its (first) input; empty where it does something."""
    if not isinstance(node.target, torch._ops.OpOverload) or not node.all_input_nodes:
        return ""
    source, result = node.args[0], node.meta.get("val")
    if not isinstance(source, fx.Node) or source is not node.all_input_nodes[0] or not isinstance(result, torch.Tensor):
        return ""
    given = source.meta["val"]
    if node.target in _COPIES:
        return "a copy that nothing changes"
    if node.target == _aten.dropout.default and not keyword_arguments(node)["train"]:
        return "dropout does nothing at inference"
    if node.target in _CASTS and given.dtype == result.dtype and given.device == result.device:
        return f"its input is {str(given.dtype).removeprefix('torch.')} already"
    if node.target in _SHAPES and list(given.shape) == list(result.shape):
        return "its input has that shape already"
    return ""
