"""Everything that depends on parameters alone is computed once, here, and stored: no inference recomputes a weight.

After decomposition a linear layer transposes its weight at every call, batch norms take square roots of their variances, and so on. Such
nodes are evaluated in torch and their results become stored tensors. Where each stored tensor came from is remembered: a
pure transposition keeps its permutation, so that a fault in the source's element finds its place; anything else is `transformed`.

Weights of half precision that are right operands of products stay as they are: what makes float32 of them stays in the graph, behind their
transposition, and the product's kernel does it with each element that it reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, fx

from effc.ir import Edit, Program

__all__ = ["ParameterSource", "fold_parameters"]

_aten = torch.ops.aten
_HALF = (torch.float16, torch.bfloat16)
_RIGHT: dict[object, int] = {
    _aten.mm.default: 1,
    _aten.matmul.default: 1,
    _aten.addmm.default: 2,
}  # which argument a product's right operand is
_GROWTH = 1 << 20  # bytes that a result may be larger than what it came from: an expanded constant is cheaper to compute


@dataclass(frozen=True)
class ParameterSource:
    """Where a stored tensor came from.

    Attributes:
        name: the source tensor's name; several, joined by commas, for a value computed from several.
        kind: `same`, `permutation` (axes reordered), `packed` (axes reordered, some cut into blocks) or `transformed`.
        permutation: for `permutation`: stored.shape[i] == source.shape[permutation[i]].
        blocks: for `packed`: (source axis, size of a block) of the stored tensor's last axes; an axis that is cut has its number of
            blocks in its own place, and the last block is filled up with zeros.
    """

    name: str
    kind: Literal["same", "permutation", "packed", "transformed"]
    permutation: tuple[int, ...] = ()
    blocks: tuple[tuple[int, int], ...] = ()


@dataclass
class _Known:
    """A stored tensor; `wide`: the node's value is this in float32."""

    value: Tensor
    source: ParameterSource
    wide: bool = False

    @property
    def whole(self) -> Tensor:
        return self.value.float() if self.wide else self.value


def fold_parameters(program: Program) -> tuple[Program, dict[str, ParameterSource]]:
    """The program with parameter-only computations stored, and the source of every stored tensor by placeholder name."""
    edit = Edit(program)
    known: dict[fx.Node, _Known] = {}
    for node in list(edit.graph.nodes):
        if node.op == "placeholder":
            value = edit.tensor(node)
            if value is not None:
                known[node] = _Known(value.detach(), ParameterSource(program.tensor_names[node.name], "same"))
        elif node.op == "call_function":
            folded = _evaluate(node, known)
            if folded is not None:
                known[node] = folded
    sources = {node.name: entry.source for node, entry in known.items() if node.op == "placeholder"}
    for node, entry in list(known.items()):
        needed = any(user not in known for user in node.users)
        if node.op != "call_function" or not needed:
            continue
        name = entry.source.name.split(",")[0] or "constant"
        narrow = entry.wide and all(_is_right_operand(node, user) for user in node.users if user not in known)
        stored = edit.add_tensor(f"{name}.{str(node.target).split('.')[1]}", entry.value if narrow else entry.whole, kind="buffer")
        sources[stored.name] = entry.source if narrow or not entry.wide else ParameterSource(entry.source.name, "transformed")
        if narrow:
            stored = edit.call(_aten._to_copy.default, (stored,), {"dtype": torch.float32}, like=node)
        edit.replace(node, stored)
    result = edit.done()
    return result, {name: source for name, source in sources.items() if name in result.tensors}


def _evaluate(node: fx.Node, known: Mapping[fx.Node, _Known]) -> _Known | None:
    """The node's value where its inputs are all known, it is deterministic, and the result is not much larger than they are."""
    inputs = node.all_input_nodes
    target = node.target
    fake = node.meta.get("val")
    if not inputs or not all(one in known for one in inputs) or not isinstance(fake, Tensor):
        return None
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten":
        return None
    if torch.Tag.nondeterministic_seeded in target.tags or not all(isinstance(size, int) for size in fake.shape):
        return None
    first = known[inputs[0]]
    if target == _aten._to_copy.default and node.kwargs == {"dtype": torch.float32} and first.value.dtype in _HALF and not first.wide:
        return _Known(first.value, first.source, wide=True)
    if first.wide and _permutation(node, first.value.ndim) is not None:
        moved = target(first.value, *node.args[1:])
        return _Known(moved.contiguous(), _source(node, moved, [first]), wide=True)
    read = sum(known[one].value.nbytes for one in inputs)
    if fake.numel() * fake.element_size() > read + _GROWTH:
        return None
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda argument: known[argument].whole)
    with torch.no_grad():
        value = target(*args, **kwargs)
    return _Known(value.contiguous(), _source(node, value, [known[one] for one in inputs]))


def _is_right_operand(node: fx.Node, user: fx.Node) -> bool:
    """Whether `user` is a product with a matrix, which the node is, and takes it as nothing else."""
    place = _RIGHT.get(user.target)
    return place is not None and node.meta["val"].ndim == 2 and [i for i, one in enumerate(user.args) if one is node] == [place]


def _source(node: fx.Node, value: Tensor, inputs: list[_Known]) -> ParameterSource:
    names = ",".join(dict.fromkeys(entry.source.name for entry in inputs))
    axes = _permutation(node, value.ndim)
    first = inputs[0].source
    if axes is None or first.kind not in ("same", "permutation"):
        return ParameterSource(names, "transformed")
    before = first.permutation or tuple(range(value.ndim))
    return ParameterSource(first.name, "permutation", tuple(before[axis] for axis in axes))


def _permutation(node: fx.Node, rank: int) -> tuple[int, ...] | None:
    if node.target == _aten.permute.default:
        return tuple(int(axis) % rank for axis in node.args[1])  # type: ignore[union-attr, arg-type]
    if node.target == _aten.t.default:
        return tuple(reversed(range(rank)))
    if node.target == _aten.transpose.int:
        axes = list(range(rank))
        i, j = int(node.args[1]) % rank, int(node.args[2]) % rank  # type: ignore[arg-type]
        axes[i], axes[j] = axes[j], axes[i]
        return tuple(axes)
    return None
