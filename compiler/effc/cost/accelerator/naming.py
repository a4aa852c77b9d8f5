"""What a layer and its weights are called where its product is spoken of: the same in the model of its cost and in campaigns of faults."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from effc.ir import Program, source_of

__all__ = ["WORDS", "layer_of", "stored_as"]

WORDS = "_int8"  # behind the name of a weight: of its words, where a network was quantised for an array


def layer_of(program: Program, node: fx.Node, weights: fx.Node) -> str:
    """The module whose weights a product's are (`layer1.0.conv1`), where their name says so, else the operator's own name."""
    stored = weights
    while stored.op == "call_function" and stored.all_input_nodes:  # a transposition
        stored = stored.all_input_nodes[0]
    module, _, tensor = program.tensor_names.get(stored.name, "").rpartition(".")
    return module if module and tensor in ("weight", f"weight{WORDS}") else source_of(node)


def stored_as(weights: fx.Node) -> str:
    """Which numbers stored weights are: one word for all products that read the same, each through a transposition of its own or none.

    The stored tensor's name, or what is made of it where that is more than another view of all of it. (A part of a tensor is another one
    than the whole: a memory has both.)
    """
    if weights.op != "call_function":
        return weights.name
    if _shows_all(weights):
        return stored_as(weights.all_input_nodes[0])

    def written(value: Any) -> str:
        return repr(fx.map_arg(value, lambda one: _Word(stored_as(one))))

    return f"{weights.target}({written(weights.args)}, {written(weights.kwargs)})"


class _Word(str):
    """Shows without quotation marks: names are no strings of the user's."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _shows_all(node: fx.Node) -> bool:
    """Whether the result has the numbers of its only argument, all of them, under another shape."""
    if not isinstance(node.target, torch._ops.OpOverload) or len(node.all_input_nodes) != 1:
        return False
    returns = node.target._schema.returns
    alias = returns[0].alias_info if len(returns) == 1 else None
    if node.target != torch.ops.aten.clone.default and (alias is None or alias.is_write):
        return False
    before, after = node.all_input_nodes[0].meta.get("val"), node.meta.get("val")
    same = isinstance(before, Tensor) and isinstance(after, Tensor) and before.dtype == after.dtype
    return bool(same and before.numel() == after.numel())  # type: ignore[union-attr]  # both are tensors
