"""Which entries of a product's input are of which sample.

A fault comes at one place of every sample, and the array does a sample's work in one call (`effc.cost.accelerator.layers`). The first axis
of a product's input need not count samples: a network may fold frames or tokens into its batch, put its batch behind another axis, or
compute something that no sample is in. So the program runs on zeros, with one sample and with three:

- the first axis grows from k to 3 k, the others stay: k entries of each sample. Two orders are possible; that a sample's entries lie one
  after the other follows from the way back to a value with one entry a sample: there are reshapes alone, which keep the order, and what
  works entry by entry. Where something else made the axis (values one behind the other, repeated, picked) the order is not known.
- nothing grows: one value that all samples read, all of it a single call.
- another axis grows: its samples are not apart.

A program of a fixed batch runs as it is. With one sample a call everything is that sample's; of more, an axis of that length counts them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from effc.errors import ConfigError, Problem
from effc.faultsim.accelerator.work import Gemm
from effc.faultsim.sites import operator_name
from effc.ir import Program
from effc.ir.edit import keyword_arguments

__all__ = ["with_samples"]

_FEW, _MORE = 1, 3  # samples of the two runs: those that an import proves a batch with
_RESHAPES = ("view", "reshape", "_unsafe_view", "flatten", "unflatten")
_PICKING = (  # what may put the entries of an axis into another order
    *("flip", "roll", "sort", "topk", "index", "index_select", "gather", "take", "take_along_dim", "masked_select", "nonzero"),
    *("scatter", "index_put", "index_copy", "as_strided", "unfold", "embedding"),
)
_Shapes = tuple[tuple[int, ...], ...]  # of the tensors of a node: most have one


def with_samples(program: Program, products: Sequence[Gemm]) -> list[Gemm]:
    """The products, each told how many entries of its input's first axis are of one sample.

    Raises:
        ConfigError: names all products of which this is not known.
    """
    interface = program.interface
    once = _shapes(program, _FEW)
    grown = _shapes(program, _MORE) if interface.batch.symbolic else once
    fixed = next((int(value.shape[0]) for value in interface.inputs if value.shape), 1) if not interface.batch.symbolic else None
    nodes, problems = {node.name: node for node in program.nodes}, []
    for product in products:
        given = keyword_arguments(nodes[product.name])
        x = given["x"] if "x" in given else given["a"]
        entries = once[x.name][0][0]
        problem = _unknown_fixed(once[x.name][0], fixed) if fixed is not None else _unknown(x, once, grown)
        if problem is not None:
            problems.append(Problem(product.source, product.op, *problem))
        product.per_sample = 1 if fixed == entries else entries
    if problems:
        raise ConfigError("not all products of the program have samples that faults can be put into one by one", problems)
    return list(products)


def _unknown(x: fx.Node, once: Mapping[str, _Shapes], grown: Mapping[str, _Shapes]) -> tuple[str, str] | None:
    """Why an input's samples cannot be told apart, and what to do about it."""
    if once[x.name] != grown[x.name] and not _in_front(once[x.name], grown[x.name]):
        why = f"the batch is not the first axis of its input (of one sample: {list(once[x.name][0])}, of three: {list(grown[x.name][0])})"
        return why, "lay the network's values out with the batch in front"
    if not _in_order(x, once, grown):
        why = f"its input has {once[x.name][0][0]} entries of each sample in its first axis, and they may not lie one after the other"
        return why, "fold axes into the batch by a reshape of a value whose first axis is the batch"
    return None


def _unknown_fixed(shape: tuple[int, ...], samples: int) -> tuple[str, str] | None:
    if samples in (1, shape[0]):
        return None
    why = f"the first axis of its input has {shape[0]} entries, and a call has {samples} samples"
    return why, "export the network with a symbolic batch, or for one sample"


def _in_front(once: _Shapes, grown: _Shapes) -> bool:
    """Whether the batch is in the first axis and nowhere else."""
    return all(more == (_MORE // _FEW * few[0], *few[1:]) for few, more in zip(once, grown, strict=True) if few)


def _in_order(x: fx.Node, once: Mapping[str, _Shapes], grown: Mapping[str, _Shapes]) -> bool:
    """Whether a sample's entries lie one after the other in the first axis."""
    waiting, seen = [x], {x}
    while waiting:
        node = waiting.pop()
        few, more = once.get(node.name, ()), grown.get(node.name, ())
        if few == more:  # a number, or the same for all samples
            continue
        if not _in_front(few, more):
            return False
        entries = {shape[0] for shape in few}
        if entries == {_FEW}:
            continue
        inputs = [one for one in node.all_input_nodes if once.get(one.name) != grown.get(one.name)]
        before = {shape[0] if shape else 0 for one in inputs for shape in once[one.name]}
        name = operator_name(node).removesuffix("_copy")
        if name in _PICKING or (before and before != entries and name not in _RESHAPES):
            return False
        fresh = [one for one in inputs if one not in seen]
        waiting += fresh
        seen.update(fresh)
    return True


def _shapes(program: Program, samples: int) -> dict[str, _Shapes]:
    """Of all tensors in a call on zeros. (What a graph notes of shapes may be those of the batch that it was traced with.)"""
    found: dict[str, _Shapes] = {}

    class Shapes(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            found[n.name] = tuple(tuple(leaf.shape) for leaf in tree_leaves(value) if isinstance(leaf, Tensor))
            return value

    zeros = [torch.zeros(value.at_batch(samples), dtype=getattr(torch, value.dtype)) for value in program.interface.inputs]
    with torch.no_grad():
        Shapes(program.exported.graph_module).run(*(program.tensors[name] for name in program.tensor_names), *zeros)
    return found
