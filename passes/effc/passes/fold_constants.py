"""Compute once what depends on stored tensors and constants alone.

    before: relu(x) + (scale * arange(10))
    after:  relu(x) + stored

A result is stored as a parameter where everything that it came from trains, else as a buffer. Not folded: random operators; results that
are more than 1 MiB larger than what they came from (an expanded constant is cheaper to compute than to load); sizes that depend on the
batch; uninitialised memory; quantisation operators (their int8 weights must stay visible).

Tolerance: the stored values are bit for bit what torch would compute at every call. They are stored row by row, also where torch would
have handed on a transposed view, and a matrix product may add up its terms in another order for that: the sums of k terms differ by at
most k * 2^-24 of sum |w x|, so 1e-5 of the output's largest magnitude leaves room for several such products.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, fx

from effc.ir import Edit, Program, source_of
from effc.passes.base import Context, Pass

__all__ = ["FoldConstants"]

_GROWTH = 1 << 20  # bytes
_aten = torch.ops.aten
_UNINITIALISED = frozenset({_aten.empty.memory_format, _aten.empty_like.default, _aten.empty_strided.default, _aten.new_empty.default})


@dataclass(frozen=True)
class _Known:
    value: Tensor
    trains: bool


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Compute nodes that depend on no input once, at compile time."""

    name: ClassVar[str] = "fold-constants"
    exact: ClassVar[bool] = True
    tolerance: ClassVar[float] = 1e-5

    def run(self, program: Program, context: Context) -> Program:
        edit = Edit(program)
        known: dict[fx.Node, _Known] = {}
        for node in list(edit.graph.nodes):
            stored = edit.tensor(node)
            if stored is not None:
                known[node] = _Known(stored.detach(), isinstance(stored, torch.nn.Parameter))
            elif node.op == "call_function" and all(one in known for one in node.all_input_nodes):
                value = self._evaluate(node, known, context)
                if value is not None:
                    known[node] = value
        for node, result in list(known.items()):
            if node.op != "call_function" or all(user in known for user in node.users):
                continue
            tensor = edit.add_tensor(f"{source_of(node)}.folded", result.value, kind="parameter" if result.trains else "buffer")
            edit.replace(node, tensor)
            context.log(self, node, True, f"{list(result.value.shape)} computed once and stored ({result.value.nbytes:,} bytes)")
        return edit.done()

    def _evaluate(self, node: fx.Node, known: Mapping[fx.Node, _Known], context: Context) -> _Known | None:
        target, fake = node.target, node.meta.get("val")
        if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten" or not isinstance(fake, Tensor):
            return None
        if target in _UNINITIALISED or torch.Tag.nondeterministic_seeded in target.tags:
            return None
        if not all(isinstance(size, int) for size in fake.shape):
            return None
        size = fake.numel() * fake.element_size()
        read = sum(known[one].value.nbytes for one in node.all_input_nodes)
        if size > read + _GROWTH:
            context.log(self, node, False, f"its {size:,} bytes would be stored instead of computed from {read:,}")
            return None
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda one: known[one].value)
        with torch.no_grad():
            value = target(*args, **kwargs)
        inputs = [known[one] for one in node.all_input_nodes]
        trains = bool(inputs) and all(one.trains for one in inputs) and value.is_floating_point()
        return _Known(value.contiguous(), trains)
