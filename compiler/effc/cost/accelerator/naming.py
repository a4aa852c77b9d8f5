"""What a layer is called where its product is spoken of: the same word in the model of its cost and in campaigns of faults."""

from __future__ import annotations

from torch import fx

from effc.ir import Program, source_of

__all__ = ["WORDS", "layer_of"]

WORDS = "_int8"  # behind the name of a weight: of its words, where a network was quantised for an array


def layer_of(program: Program, node: fx.Node, weights: fx.Node) -> str:
    """The module whose weights a product's are (`layer1.0.conv1`), where their name says so, else the operator's own name."""
    stored = weights
    while stored.op == "call_function" and stored.all_input_nodes:  # a transposition
        stored = stored.all_input_nodes[0]
    module, _, tensor = program.tensor_names.get(stored.name, "").rpartition(".")
    return module if module and tensor in ("weight", f"weight{WORDS}") else source_of(node)
