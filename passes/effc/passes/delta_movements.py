"""Movements: operators that compute nothing, so that their results are elements of an image in another order, or some of them.

    a -> slice of channels        a -> view -> transpose -> view, a channel shuffle        a -> permute

Where every pixel stays in its place, what moved in the image moved there: a layer that reads the movement reads the image, and nothing is
kept a second time. Whether it does is tried on an image of which each pixel holds its own number. Where pixels change places, or the way
leads through values of more axes, kernels do not know behind the movement what moved. Then its result is compared with that of the frame
before, unless something else reads the image, too: code keeps one layout of a tensor, so such a movement has no state of its own.

A split is written as slices first: it gives a list, and no pixel can be followed through that.

    before: a -> split -> getitem 0, getitem 1        after: a -> slice, a -> slice
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from effc.ir import Edit, Program, keyword_arguments

__all__ = ["Movement", "movement_of", "sliced"]

_aten = torch.ops.aten
_VIEWS = frozenset(
    {
        _aten.view.default,
        _aten.reshape.default,
        _aten._unsafe_view.default,
        _aten.flatten.using_ints,
        _aten.unflatten.int,
        _aten.squeeze.default,
        _aten.squeeze.dim,
        _aten.squeeze.dims,
        _aten.unsqueeze.default,
    }
)
_SPLITS = frozenset(
    {_aten.split.Tensor, _aten.split_with_sizes.default, _aten.split.sizes, _aten.chunk.default, _aten.tensor_split.sections}
)
_OTHERS = frozenset(
    {
        _aten.slice.Tensor,
        _aten.narrow.default,
        _aten.select.int,
        _aten.permute.default,
        _aten.transpose.int,
        _aten.contiguous.default,
        _aten.clone.default,
        _aten.alias.default,
        _aten.detach.default,
    }
)


@dataclass(frozen=True, eq=False)
class Movement:
    """What a node passes on.

    Attributes:
        source: the image, itself no movement.
        in_place: whether every pixel of the result holds elements of the same pixel of the image alone, on a way through images.
        alone: whether nothing else reads the image, or a part of the way.
    """

    source: fx.Node
    in_place: bool
    alone: bool


def movement_of(node: fx.Node) -> Movement | None:
    """The movement that ends at a node whose value is an image, (N, C, H, W); None where it computes something, or moves no image."""
    chain: list[fx.Node] = []
    source = node
    while _moves(source):
        chain.append(source)
        source = source.args[0]  # type: ignore[assignment]
    image = source.meta.get("val")
    if not chain or not isinstance(image, Tensor) or image.ndim != 4 or not all(isinstance(size, int) for size in image.shape[1:]):
        return None
    readers = [[user for user in one.users if user.target != _aten.sym_size.int] for one in (source, *chain[1:])]
    return Movement(source, _in_place(image, chain[::-1]), all(len(users) == 1 for users in readers))


def sliced(program: Program) -> Program:
    """The program with slices for splits; the same values, bit for bit. The program itself where there is none."""
    edit, done = Edit(program), False
    for node in edit.nodes:
        users = list(node.users)
        if node.target not in _SPLITS or not all(user.target is operator.getitem for user in users):
            continue
        source, dim = node.args[0], int(keyword_arguments(node)["dim"])
        sizes = [part.shape[dim] for part in node.meta["val"]]
        if not all(isinstance(size, int) for size in sizes):
            continue
        for user in users:
            part = int(user.args[1]) % len(sizes)  # type: ignore[arg-type]
            start = sum(sizes[:part])
            edit.replace(user, edit.call(_aten.slice.Tensor, (source, dim, start, start + sizes[part]), like=user))
            edit.erase(user)
        edit.erase(node)
        done = True
    return edit.done() if done else program


def _moves(node: fx.Node) -> bool:
    return node.op == "call_function" and node.target in _VIEWS | _OTHERS


def _in_place(image: Tensor, chain: list[fx.Node]) -> bool:
    _, channels, height, width = image.shape
    numbers = torch.arange(height * width).reshape(1, 1, height, width)
    value = numbers.repeat(1, channels, 1, 1)
    for node in chain:
        if node.meta["val"].ndim != 4 or len(node.all_input_nodes) > 1:  # or a place that is computed
            return False
        value = value.reshape(-1, *node.meta["val"].shape[1:]) if node.target in _VIEWS else _call(node, value)
    return value.shape[2:] == numbers.shape[2:] and bool((value == numbers).all())


def _call(node: fx.Node, value: Tensor) -> Tensor:
    result: Tensor = node.target(value, *node.args[1:], **node.kwargs)  # type: ignore[operator]
    return result
