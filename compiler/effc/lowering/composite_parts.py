"""Which nodes of the program a composite computes, after TVM's grouping has renamed its result.

A binding inside a composite is one of main as it was before: that of the same operator on the same operands.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from effc.lowering.optimise import UNKNOWN, Part, following, multiply_accumulates
from effc.lowering.relax_edit import operands, operator_name
from effc.lowering.to_relax import RelaxModule

__all__ = ["composite_parts"]


def composite_parts(given: RelaxModule, grouped: Any, functions: Mapping[str, Any]) -> list[tuple[Part, ...]]:
    """The operators of each call of a composite, in the order of the calls.

    Args:
        given: before grouping.
        grouped: the module after it.
        functions: its composites by name.
    """
    import tvm

    origins = following(given.module["main"], given.origins)
    before: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for binding in _bindings(given.module["main"]):
        key = (operator_name(binding.value), tuple(str(one.name) for one in operands(binding.value)))
        before.setdefault(key, []).append(str(binding.var.name))
    was: dict[Any, str] = {}  # variable of the grouped main that a composite gives -> its name before; grouping uses a name twice
    parts = []
    for binding in _bindings(grouped["main"]):
        function = functions.get(str(getattr(getattr(binding.value, "op", None), "name_hint", "")))
        if function is None:
            continue
        work = multiply_accumulates(tvm.IRModule({"main": function}))
        arguments = [was.get(one) or str(getattr(one, "name", "")) for one in binding.value.args]
        inside = {str(own.name): name for own, name in zip(function.params, arguments, strict=True)}
        made = []
        for own in _bindings(function):
            operator = operator_name(own.value)
            read = tuple(filter(None, (inside.get(str(one.name), "") for one in operands(own.value))))
            same = before.get((operator, read), [])
            source = same.pop(0) if same else ""
            inside[str(own.var.name)] = was[binding.var] = source
            if operator:
                made.append(Part(origins.get(source, UNKNOWN), operator.rpartition(".")[2], work.get(str(own.var.name), 0)))
        parts.append(tuple(made))
    return parts


def _bindings(function: Any) -> list[Any]:
    return [binding for block in function.body.blocks for binding in block.bindings]
