"""The way through a graph: its nodes, the graphs inside them, and what a node is called."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["all_nodes", "node_name", "subgraphs"]


def node_name(node: Any, position: int) -> str:
    """The node's name, or `Op_17` where the file gives none."""
    return str(node.name) or f"{node.op_type}_{position}"


def subgraphs(node: Any) -> Iterator[Any]:
    """The graphs in a node's attributes (branches, loop bodies)."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def all_nodes(graph: Any) -> Iterator[Any]:
    """Every node of a graph, those of its subgraphs after the node that holds them."""
    for node in graph.node:
        yield node
        for inner in subgraphs(node):
            yield from all_nodes(inner)
