"""What a traced graph may hold that no program can: found by operator, all of it at once, under the user's names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from effc.errors import Problem, UnsupportedModelError
from effc.ir import Program, is_known, source_of

__all__ = ["refuse_operators"]

_BY_DATA = (torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output)


def refuse_operators(program: Program) -> None:
    """Raise UnsupportedModelError that lists control flow, foreign operators, and what only the data decides (sizes, Python numbers)."""
    problems = list(_foreign(program))
    if problems:
        raise UnsupportedModelError("the module has operators that effc does not know", problems)
    problems = list(_data_dependent(program))
    if problems:
        raise UnsupportedModelError("the module's sizes or numbers depend on its data; a program's are fixed but for the batch", problems)


def _foreign(program: Program) -> Iterator[Problem]:
    for node in program.nodes:
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            hint = "compute both branches and choose with torch.where; write loops with a fixed number of turns"
            yield Problem(source_of(node), str(node.target), "calls another graph", hint)
        elif not is_known(node.target):
            hint = "write it with torch's own operators"
            yield Problem(source_of(node), str(node.target), "is neither an ATen nor an effc operator", hint)


def _data_dependent(program: Program) -> Iterator[Problem]:
    """The nodes where a size or a number comes up that no shape decides; not those that only carry it on."""
    for node in program.nodes:
        fresh = _unbacked(node.meta.get("val"))
        inherited: set[Any] = set().union(*(_unbacked(argument.meta.get("val")) for argument in node.all_input_nodes))
        if fresh - inherited and (not inherited or _decides(node)):
            number = not isinstance(node.meta["val"], torch.Tensor | tuple | list)
            why = "makes a number of a tensor's element" if number else "the shape of its result depends on the data"
            yield Problem(source_of(node), str(node.target), why, "mask with torch.where, or give sizes as constants")


def _unbacked(value: Any) -> set[Any]:
    """Symbols in a value that only running the network would tell."""
    values = value if isinstance(value, tuple | list) else [value]
    symbolic = [part for part in values if isinstance(part, torch.Tensor | torch.SymInt | torch.SymFloat | torch.SymBool)]
    return set().union(*(free_unbacked_symbols(part) for part in symbolic))


def _decides(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and any(tag in node.target.tags for tag in _BY_DATA)
