"""What the operators of a network are to a stream: which compute pixels from windows, which from one pixel alone, and which neither."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import torch
from torch import Tensor, fx

from effc.ir import keyword_arguments
from effc.ir.ops.bound import BOUND
from effc.passes.delta_movements import movement_of

__all__ = ["CONVOLUTIONS", "POOLS", "Kind", "is_image", "is_pad", "is_resize", "is_spatial", "kind_of"]

_aten = torch.ops.aten
Kind = Literal["convolution", "depthwise", "pool", "concat", "resize", "elementwise", "other"]

CONVOLUTIONS = frozenset({_aten.conv2d.default, _aten.conv2d.padding})
POOLS = frozenset({_aten.max_pool2d.default, _aten.avg_pool2d.default})
_RESIZES = frozenset(
    {_aten.upsample_nearest2d.vec, _aten.upsample_nearest2d.default, _aten.upsample_bilinear2d.vec, _aten.upsample_bilinear2d.default}
)
_OTHERS = frozenset(
    {
        _aten.conv_transpose2d.input,
        _aten.adaptive_avg_pool2d.default,
        _aten.adaptive_max_pool2d.default,
        _aten.pixel_shuffle.default,
        _aten.grid_sampler.default,
    }
)
# By element, though torch does not tag them so.
_ELEMENTWISE = frozenset({_aten.batch_norm.default, _aten.hardswish.default, _aten.prelu.default, _aten.dropout.default, BOUND.overload})


def is_pad(node: fx.Node) -> bool:
    """Whether a node pads an image's rows and columns with zeros."""
    if node.target not in (_aten.constant_pad_nd.default, _aten.pad.default):
        return False
    arguments = keyword_arguments(node)
    if arguments.get("mode", "constant") != "constant" or float(arguments.get("value") or 0.0) != 0.0:
        return False
    return len(arguments["pad"]) <= 4 and all(isinstance(width, int) and width >= 0 for width in arguments["pad"])


def is_spatial(node: fx.Node) -> bool:
    """Whether a node computes an image from the places of another one."""
    return node.target in CONVOLUTIONS | POOLS | _OTHERS or is_resize(node)


def is_resize(node: fx.Node) -> bool:
    """Whether a node makes an image larger or smaller: an upsampling, or a choice of rows or columns (what ONNX's Resize becomes)."""
    return node.target in _RESIZES or (node.target == _aten.index_select.default and int(keyword_arguments(node)["dim"]) % 4 in (2, 3))


def is_image(node: fx.Node, like: Tensor) -> bool:
    """Whether a node gives one image a sample, of more than one pixel, in the dtype of `like`, the frame."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or value.ndim != 4 or value.dtype != like.dtype or str(value.shape[0]) != str(like.shape[0]):
        return False
    sizes = value.shape[1:]
    return all(isinstance(size, int) for size in sizes) and int(sizes[1]) * int(sizes[2]) > 1


def kind_of(node: fx.Node, dependents: Collection[fx.Node]) -> Kind | Literal["pad", "by element", "movement"]:
    """What a node that gives an image is. `dependents`: all nodes whose values depend on the frame.

    A `movement` is one that has no state of its own; see `effc.passes.delta_movements`.
    """
    if node.target in CONVOLUTIONS:
        weight = node.args[1].meta["val"].shape  # type: ignore[union-attr]
        groups = keyword_arguments(node)["groups"]
        constant = not any(one in dependents for one in node.all_input_nodes[1:])
        if not constant:
            return "other"
        return "depthwise" if weight[1] == 1 and groups == weight[0] and groups > 1 else "convolution"
    if node.target in POOLS:
        return "pool"
    if node.target == _aten.cat.default and keyword_arguments(node)["dim"] in (1, -3):
        return "concat"
    if is_resize(node) and not any(one in dependents for one in node.all_input_nodes[1:]):
        return "resize"
    if is_pad(node) and all(user.target in CONVOLUTIONS and user.args[0] is node for user in node.users):
        return "pad"
    movement = movement_of(node)
    if movement is not None:
        return "movement" if movement.in_place or not movement.alone else "other"
    return "by element" if _is_elementwise(node, dependents) else "other"


def _is_elementwise(node: fx.Node, dependents: Collection[fx.Node]) -> bool:
    """Whether a result depends, at every pixel, on the operands at that pixel (of all channels' own element) alone."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return False
    if target == _aten.batch_norm.default and keyword_arguments(node)["training"]:
        return False
    if target == _aten.dropout.default and keyword_arguments(node)["train"]:
        return False
    if not (target in _ELEMENTWISE or torch.Tag.pointwise in target.tags):
        return False
    # Not an image that is only broadcast from something smaller: it would be a chain's begin, with nothing of that size before it.
    size = tuple(node.meta["val"].shape[2:])
    return any(isinstance(one.meta.get("val"), Tensor) and tuple(one.meta["val"].shape[2:]) == size for one in node.all_input_nodes)
