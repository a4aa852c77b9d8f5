"""The drawn form of a program: its nodes that compute tensors, and what the other graph of a comparison lacks."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from effc.errors import counted
from effc.ir import Program, source_of
from effc.ir.interface import value_of
from effc.report.model import Graph, Node

__all__ = ["graphs_of"]


def graphs_of(before: Program, after: Program) -> tuple[Graph, Graph]:
    """Both graphs; nodes that a pass removed are marked in the first, those that it made in the second."""
    old, new = _keys(before), _keys(after)
    return _graph(before, new, "removed"), _graph(after, old, "added")


def _keys(program: Program) -> set[tuple[str, str]]:
    return {(node.name, str(node.target)) for node in program.nodes}


def _graph(program: Program, other: set[tuple[str, str]], mark: str) -> Graph:
    names = {node: name for name, node in program.input_nodes.items()}
    nodes = [Node(f"in:{name}", "input", name, _shape(node), ()) for name, node in program.input_nodes.items()]
    shown = {node: f"in:{name}" for node, name in names.items()}
    for node in program.nodes:
        if isinstance(node.meta.get("val"), torch.SymInt):
            continue  # arithmetic on sizes is no work of the network
        inputs = tuple(dict.fromkeys(shown[one] for one in node.all_input_nodes if one in shown))
        changed = (node.name, str(node.target)) not in other
        shown[node] = node.name
        nodes.append(Node(node.name, _operator(node), source_of(node), _shape(node), inputs, mark if changed else ""))
    results: Any = program.graph.output_node().args[0]
    for value, result in zip(program.interface.outputs, results, strict=True):
        if isinstance(result, fx.Node) and result in shown:
            nodes.append(Node(f"out:{value.name}", "output", value.name, _shape(result), (shown[result],)))
    return Graph(tuple(nodes))


def _operator(node: fx.Node) -> str:
    if isinstance(node.target, torch._ops.OpOverload):
        namespace, name = str(node.target.name()).split("::")  # type: ignore[no-untyped-call]
        return name.split(".")[0] if namespace == "aten" else f"{namespace}.{name.split('.')[0]}"
    return getattr(node.target, "__name__", str(node.target))


def _shape(node: fx.Node) -> str:
    fake = node.meta.get("val")
    if isinstance(fake, (list, tuple)):
        return counted(len(fake), "value")
    if fake is None:
        return ""
    return "×".join("N" if size == "batch" else str(size) for size in value_of("", fake).shape)
