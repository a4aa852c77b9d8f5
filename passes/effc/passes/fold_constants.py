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

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

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
    """The value of a node; that of a `split` is a group, whose parts other nodes take."""

    value: Tensor | tuple[Tensor, ...]
    trains: bool

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in (self.value if isinstance(self.value, tuple) else (self.value,)))


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
            if node.op != "call_function" or isinstance(result.value, tuple) or all(user in known for user in node.users):
                continue
            tensor = edit.add_tensor(f"{source_of(node)}.folded", result.value, kind="parameter" if result.trains else "buffer")
            edit.replace(node, tensor)
            context.log(self, node, True, f"{list(result.value.shape)} computed once and stored ({result.value.nbytes:,} bytes)")
        return edit.done()

    def _evaluate(self, node: fx.Node, known: Mapping[fx.Node, _Known], context: Context) -> _Known | None:
        target, fake = node.target, node.meta.get("val")
        if target is operator.getitem:
            group = known[node.all_input_nodes[0]]
            part: Any = group.value[node.args[1]]  # type: ignore[index]
            return _Known(part, group.trains)
        parts: list[Any] = list(fake) if isinstance(fake, (list, tuple)) else [fake]
        if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten":
            return None
        if not all(isinstance(part, Tensor) for part in parts):
            return None
        if target in _UNINITIALISED or torch.Tag.nondeterministic_seeded in target.tags:
            return None
        if not all(isinstance(size, int) for part in parts for size in part.shape):
            return None
        size = sum(part.numel() * part.element_size() for part in parts)
        read = sum(known[one].nbytes for one in node.all_input_nodes)
        if size > read + _GROWTH:
            context.log(self, node, False, f"its {size:,} bytes would be stored instead of computed from {read:,}")
            return None
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda one: known[one].value)
        with torch.no_grad():
            value = target(*args, **kwargs)
        inputs = [known[one] for one in node.all_input_nodes]
        several = isinstance(value, (list, tuple))
        values = tuple(part.contiguous() for part in (value if several else (value,)))
        trains = bool(inputs) and all(one.trains for one in inputs) and all(part.is_floating_point() for part in values)
        return _Known(values if several else values[0], trains)
