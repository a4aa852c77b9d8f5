"""How channels go through layers with weights: convolutions, products with a stored matrix, batch norm, PReLU.

A layer reads the channels of its input (columns of its weight) and makes those of its result (rows). A depthwise convolution makes its
channels of the same ones that it reads: they are one group.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from effc.ir import keyword_arguments, source_of
from effc.ir.ops.conv_integer import CONV_INTEGER
from effc.ir.ops.matmul_integer import MATMUL_INTEGER
from effc.ir.ops.qlinear_conv import QLINEAR_CONV
from effc.ir.ops.qlinear_matmul import QLINEAR_MATMUL
from effc.passes.channel_flow import ChannelFlow, Rule, label
from effc.passes.channel_layout import Layout, NotFollowedError, Part, unknown
from effc.passes.linear_sites import TRANSPOSES

__all__ = ["LAYERS"]

_aten = torch.ops.aten
_COMPUTED = "are made by weights that are computed while the program runs"


def _convolution(flow: ChannelFlow, node: fx.Node) -> Layout | None:
    arguments = keyword_arguments(node)
    x, weight, bias, groups = (arguments[name] for name in ("input", "weight", "bias", "groups"))
    out, size = node.meta["val"], int(weight.meta["val"].shape[0])
    axis = out.ndim - (weight.meta["val"].ndim - 1)  # 1, or 0 for a single image
    if flow.stored(weight) is None or (bias is not None and flow.stored(bias) is None):
        return _pinned(flow, node, axis, size, _COMPUTED, x)
    if groups == 1:
        return _dense(flow, node, x, axis, (weight, 0, 1), (bias, 0), axis)
    if groups != int(x.meta["val"].shape[axis]):
        return _pinned(flow, node, axis, size, f"meet {label(node)}, which keeps them in {groups} groups", x)
    given = flow.layout(x)
    if given is None:
        return _pinned(flow, node, axis, size, f"are made one by one from {source_of(x)}, whose channels have to stay")
    if given.axis != axis:
        return _pinned(flow, node, axis, size, f"are read along another axis by {label(node)}", x)
    return _depthwise(flow, node, given, weight, bias)


def _depthwise(flow: ChannelFlow, node: fx.Node, given: Layout, weight: fx.Node, bias: fx.Node | None) -> Layout:
    rows, offsets = _values(flow, weight), _values(flow, bias)
    times = len(rows) // given.length
    for tensor in (weight, bias):
        if tensor is not None:
            flow.claim("make", tensor, 0, given, node, times)
    flow.depthwise.append((node, given.parts))
    silent = (rows.flatten(1) == 0).all(1) | (given.constant == 0).repeat_interleave(times)
    constant = torch.where(silent, torch.zeros(len(rows), dtype=rows.dtype) if offsets is None else offsets, torch.nan)
    return Layout(given.axis, tuple(Part(part.group, part.size, part.repeat * times) for part in given.parts), constant)


def _linear(flow: ChannelFlow, node: fx.Node) -> Layout | None:
    arguments = keyword_arguments(node)
    x, weight, bias = arguments["input"], arguments["weight"], arguments["bias"]
    if weight.meta["val"].ndim != 2:
        raise NotFollowedError(f"are summed up by {label(node)}")
    axis = node.meta["val"].ndim - 1
    if flow.stored(weight) is None or (bias is not None and flow.stored(bias) is None):
        return _pinned(flow, node, axis, int(weight.meta["val"].shape[0]), _COMPUTED, x)
    return _dense(flow, node, x, axis, (weight, 0, 1), (bias, 0), x.meta["val"].ndim - 1)


def _product(flow: ChannelFlow, node: fx.Node) -> Layout | None:
    """`matmul`, `mm` and `addmm` with a stored second factor, (inputs, outputs) or transposed; two activations mix channels."""
    arguments = keyword_arguments(node)
    x, second = (arguments["mat1"], arguments["mat2"]) if "mat1" in arguments else list(arguments.values())[:2]
    turned = isinstance(second, fx.Node) and second.target in TRANSPOSES and _swaps(second)
    weight = second.args[0] if turned else second
    kept = flow.stored(weight)
    if kept is None or kept.ndim != 2:
        raise NotFollowedError(f"go into {label(node)}, a product with something that is computed while the program runs")
    if arguments.get("alpha", 1) != 1 or arguments.get("beta", 1) != 1:
        raise NotFollowedError(f"go into {label(node)}, which weights its two terms")
    bias = arguments["self"] if "mat1" in arguments else None
    offset = flow.stored(bias)
    axis, rows = node.meta["val"].ndim - 1, 0 if turned else 1
    if bias is not None and (offset is None or offset.numel() != kept.shape[rows] or offset.shape[-1] != kept.shape[rows]):
        return _pinned(flow, node, axis, kept.shape[rows], "are made with a bias that is not one number each", x)
    return _dense(flow, node, x, axis, (weight, rows, 1 - rows), (bias, 0 if offset is None else offset.ndim - 1), x.meta["val"].ndim - 1)


def _swaps(node: fx.Node) -> bool:
    """Whether a transposition of a matrix does transpose it: `t`, `transpose(0, 1)`, `permute(1, 0)`."""
    dims = node.args[1] if len(node.args) == 2 else node.args[1:]
    order = [int(dim) % 2 for dim in dims]  # type: ignore[union-attr, arg-type]
    return order in ([], [0, 1], [1, 0]) and (node.target != _aten.permute.default or order == [1, 0])


def _dense(
    flow: ChannelFlow,
    node: fx.Node,
    x: fx.Node,
    axis: int,
    weight: tuple[fx.Node, int, int],
    bias: tuple[fx.Node | None, int],
    reads: int,
) -> Layout:
    """A layer whose every result is a sum over all channels of `x` on the axis `reads`.

    Args:
        flow, node, x: the walk, the layer, its input.
        axis: of the result's channels.
        weight: the stored weight, its axis of results, its axis of inputs.
        bias: the stored bias, if any, and its axis.
        reads: the input's axis that is summed over.
    """
    tensor, makes, columns = weight
    flow.read(x, reads, tensor, columns, node)
    values = _values(flow, tensor)
    used = values.movedim((makes, columns), (0, 1)).ne(0)
    used = used.flatten(2).any(2) if used.ndim > 2 else used
    given = flow.layout(x)
    if given is not None and given.axis == reads:
        used = used & given.constant.ne(0)  # NaN, not known, is not 0 either
    offsets = _values(flow, bias[0])
    zeros = torch.zeros(len(used), dtype=values.dtype)
    part = flow.start(node, len(used))
    layout = Layout(axis, (part,), torch.where(used.any(1), torch.nan, zeros if offsets is None else offsets.flatten()))
    flow.claim("make", tensor, makes, layout, node)
    if bias[0] is not None:
        flow.claim("make", bias[0], bias[1], layout, node)
    return layout


def _batch_norm(flow: ChannelFlow, node: fx.Node) -> Layout | None:
    arguments = keyword_arguments(node)
    given = flow.layout(arguments["input"])
    if given is None:
        return None
    names = ("weight", "bias", "running_mean", "running_var")
    tensors = [arguments[name] for name in names]
    if arguments["training"] or tensors[2] is None or any(one is not None and flow.stored(one) is None for one in tensors):
        raise NotFollowedError(f"go into {label(node)}, whose numbers are computed while the program runs")
    if given.axis != 1:
        raise NotFollowedError(f"are normalised along another axis by {label(node)}")
    for one in tensors:
        if one is not None:
            flow.claim("make", one, 0, given, node)
    weight, bias, mean = (_values(flow, one) for one in tensors[:3])
    variance = flow.stored(tensors[3])
    assert mean is not None and variance is not None
    x = (given.constant.to(mean.dtype) - mean) / (variance + arguments["eps"]).sqrt()
    if weight is not None:
        x = torch.where(weight == 0, 0, x * weight)
    return Layout(1, given.parts, x if bias is None else x + bias)


def _prelu(flow: ChannelFlow, node: fx.Node) -> Layout | None:
    x, weight = node.args[:2]
    given, slope = flow.layout(x), flow.stored(weight)
    if given is None:
        return None
    if slope is None or (slope.numel() > 1 and given.axis != 1):
        raise NotFollowedError(f"have slopes of another axis in {label(node)}")
    if slope.numel() > 1:
        flow.claim("carry", weight, 0, given, node)
    constant = given.constant.to(slope.dtype)
    return Layout(given.axis, given.parts, torch.where(constant < 0, constant * slope.flatten(), constant))


def _other_layer(flow: ChannelFlow, node: fx.Node) -> Layout | None:
    """Layers that are known, but not pruned: they are named, so that nobody has to wonder."""
    kind = "an integer layer" if str(node.target).startswith("effc") else "a transposed convolution"
    flow.start(node, 0, pinned=f"are made by {kind}")
    raise NotFollowedError(f"are read by {label(node)}, {kind}")


def _pinned(flow: ChannelFlow, node: fx.Node, axis: int, size: int, why: str, x: fx.Node | None = None) -> Layout:
    flow.pin(x, why)
    return Layout(axis, (flow.start(node, size, pinned=why),), unknown(size))


def _values(flow: ChannelFlow, tensor: object) -> Any:
    """What makes channels, taken as zeros."""
    kept: Tensor | None = flow.stored(tensor)
    return None if kept is None else torch.zeros_like(kept)


LAYERS: dict[object, Rule] = {
    **dict.fromkeys((_aten.conv1d.default, _aten.conv2d.default, _aten.conv3d.default), _convolution),
    **dict.fromkeys((_aten.conv1d.padding, _aten.conv2d.padding, _aten.conv3d.padding), _convolution),
    **dict.fromkeys((_aten.conv_transpose1d.default, _aten.conv_transpose2d.input, _aten.conv_transpose3d.input), _other_layer),
    **dict.fromkeys((one.overload for one in (CONV_INTEGER, MATMUL_INTEGER, QLINEAR_CONV, QLINEAR_MATMUL)), _other_layer),
    **dict.fromkeys((_aten.matmul.default, _aten.mm.default, _aten.addmm.default), _product),
    _aten.linear.default: _linear,
    _aten.batch_norm.default: _batch_norm,
    _aten.prelu.default: _prelu,
}
