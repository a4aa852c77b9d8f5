"""QDQ models: dequantise -> compute in float -> quantise becomes the integer op that the pair of Q and DQ stands for.

    quantize_linear(conv2d(DQ(x), DQ(w), DQ(bias)))  ->  qlinear_conv      also with a constant_pad_nd of 0 in front
    quantize_linear(linear(DQ(x), DQ(w), DQ(bias)))  ->  qlinear_matmul
    quantize_linear(add(DQ(a), DQ(b)))               ->  qlinear_add

What only moves elements (a reshape, a transposition) may stand between DQ(x) and the operator: then it moves the integers.

qlinear_add gives the bits of the float form. The other two sum exactly where that rounds each partial sum, so a result that lies within
its rounding error of a tie may be one step off the float form (and is the exact one). A match needs: scales stored with the model;
activations quantised per tensor and weights per output channel at most; a bias with zero point 0 and scale x_scale * w_scale; one
user of the float result. Anything else keeps its explicit quantize_linear and dequantize_linear.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from effc.ir import Edit, Program

__all__ = ["fuse_integers"]

_aten, _ops = torch.ops.aten, torch.ops.effc
_CONVOLUTIONS = (_aten.conv1d.default, _aten.conv2d.default, _aten.conv3d.default)
# Of one input, whose elements they hand on, at other places.
_MOVES = frozenset(
    {
        *(_aten.reshape.default, _aten.view.default, _aten.flatten.using_ints, _aten.unsqueeze.default, _aten.permute.default),
        *(_aten.squeeze.default, _aten.squeeze.dim, _aten.squeeze.dims, _aten.transpose.int, _aten.clone.default),
    }
)
_BIAS_TOLERANCE = 1e-5  # relative: the exporters write the product of the scales rounded to float32


def fuse_integers(program: Program) -> Program:
    """The program with every float computation between DQ and Q that has an integer op written as that op."""
    quantising = _ops.quantize_linear.default
    if not any(node.target is quantising for node in program.nodes):
        return program
    edit = Edit(program)
    changed = False
    for node in edit.nodes:
        if node.target is not quantising or not _single(edit, node.args[1]):
            continue
        computed = node.args[0]
        if not isinstance(computed, fx.Node) or len(computed.users) != 1 or computed.op != "call_function":
            continue
        fused = _fused(edit, computed, node)
        if fused is not None:
            edit.replace(node, fused)
            changed = True
    return edit.done() if changed else program


def _fused(edit: Edit, computed: fx.Node, node: fx.Node) -> fx.Node | None:
    if computed.target in _CONVOLUTIONS:
        return _convolution(edit, computed, node)
    if computed.target is _aten.linear.default:
        return _linear(edit, computed, node)
    if computed.target is _aten.add.Tensor and not computed.kwargs:
        return _sum(edit, computed, node)
    return None


def _dequantised(edit: Edit, node: Any, *, per_tensor: bool) -> tuple[fx.Node, fx.Node, fx.Node] | None:
    """(integers, scale, zero point) of a dequantize_linear of 8-bit integers with a stored float32 scale."""
    if not isinstance(node, fx.Node) or node.target is not _ops.dequantize_linear.default:
        return None
    integers, scale, zero_point = node.args[:3]
    values = edit.tensor(scale)
    if values is None or values.dtype != torch.float32 or (per_tensor and values.numel() != 1):
        return None
    if integers.meta["val"].dtype not in (torch.uint8, torch.int8):  # type: ignore[union-attr]
        return None
    return integers, scale, zero_point  # type: ignore[return-value]


def _activations(edit: Edit, node: Any) -> tuple[fx.Node, fx.Node, fx.Node] | None:
    """(integers, scale, zero point) of activations with one scale for all, which may have been moved since they were dequantised."""
    moves: list[fx.Node] = []
    while isinstance(node, fx.Node) and node.target in _MOVES and not node.kwargs:
        moves.append(node)
        node = node.args[0]
    found = _dequantised(edit, node, per_tensor=True)
    if found is None:
        return None
    integers, scale, zero_point = found
    for move in reversed(moves):
        integers = edit.call(move.target, (integers, *move.args[1:]), like=move)  # type: ignore[arg-type]
    return integers, scale, zero_point


def _single(edit: Edit, node: Any) -> bool:
    values = edit.tensor(node)
    return values is not None and values.numel() == 1 and values.dtype == torch.float32


def _channels_first(edit: Edit, node: fx.Node) -> bool:
    """Whether a dequantised weight has one scale, or one an entry of its first dimension (its output channels)."""
    values = edit.tensor(node.args[1])
    return values is not None and (values.numel() == 1 or int(node.args[3]) % node.meta["val"].ndim == 0)  # type: ignore[arg-type]


def _bias(edit: Edit, node: Any, x_scale: fx.Node, w_scale: fx.Node) -> tuple[bool, fx.Node | None]:
    """Whether the bias is in steps of x_scale * w_scale, and its integers."""
    if node is None:
        return True, None
    if not isinstance(node, fx.Node) or node.target is not _ops.dequantize_linear.default:
        return False, None
    scale, zero = edit.tensor(node.args[1]), edit.tensor(node.args[2])
    x, w = edit.tensor(x_scale), edit.tensor(w_scale)
    integers = node.args[0]
    assert isinstance(x, Tensor) and isinstance(w, Tensor) and isinstance(integers, fx.Node)
    if scale is None or zero is None or bool(zero.any()) or integers.meta["val"].dtype != torch.int32:
        return False, None
    wanted = (x.reshape(-1) * w.reshape(-1)).double()
    given = scale.reshape(-1).double()
    if given.numel() not in (1, wanted.numel()) and wanted.numel() != 1:
        return False, None
    return bool(((given - wanted).abs() <= _BIAS_TOLERANCE * wanted).all()), integers


def _convolution(edit: Edit, computed: fx.Node, node: fx.Node) -> fx.Node | None:
    x, w, bias, stride, padding, dilation, groups = (*computed.args, *(None, 1, 0, 1, 1)[max(len(computed.args) - 2, 0) :])[:7]
    dims = w.meta["val"].ndim - 2  # type: ignore[union-attr]
    if isinstance(padding, str) or computed.kwargs:
        return None
    pads = [*_each(padding, dims), *_each(padding, dims)]
    if isinstance(x, fx.Node) and x.target is _aten.constant_pad_nd.default:
        explicit = list(x.args[1])  # type: ignore[arg-type]
        if (len(x.args) > 2 and x.args[2] != 0) or len(explicit) > 2 * dims or min(explicit) < 0:
            return None
        explicit += [0] * (2 * dims - len(explicit))
        for axis in range(dims):
            before, after = explicit[2 * (dims - 1 - axis) : 2 * (dims - axis)]
            pads[axis] += before
            pads[axis + dims] += after
        x = x.args[0]
    image, kernel = _activations(edit, x), _dequantised(edit, w, per_tensor=False)
    if image is None or kernel is None or not _channels_first(edit, w):  # type: ignore[arg-type]
        return None
    fits, integers = _bias(edit, bias, image[1], kernel[1])
    if not fits:
        return None
    geometry = (_each(stride, dims), pads, _each(dilation, dims), groups)
    return edit.call(_ops.qlinear_conv.default, (*image, *kernel, *node.args[1:3], integers, *geometry), like=computed, before=node)


def _each(value: Any, dims: int) -> list[int]:
    items = [value] if isinstance(value, int) else list(value)
    return items * dims if len(items) == 1 else items


def _linear(edit: Edit, computed: fx.Node, node: fx.Node) -> fx.Node | None:
    x, w = computed.args[:2]
    assert isinstance(w, fx.Node)
    transposed = w.target is _aten.t.default  # linear(x, B.t()): B is used as it is stored
    stored = w.args[0] if transposed else w
    rows, weights = _activations(edit, x), _dequantised(edit, stored, per_tensor=False)
    if rows is None or weights is None:
        return None
    channel_axis = 1 if transposed else 0
    scale = edit.tensor(weights[1])
    if scale is None or (scale.numel() != 1 and int(stored.args[3]) % 2 != channel_axis):  # type: ignore[union-attr, arg-type]
        return None
    fits, integers = _bias(edit, computed.args[2] if len(computed.args) > 2 else None, rows[1], weights[1])
    if not fits:
        return None
    matrix = weights[0] if transposed else edit.call(_aten.t.default, (weights[0],), like=computed, before=node)
    arguments = (*rows, matrix, *weights[1:], *node.args[1:3], integers)
    return edit.call(_ops.qlinear_matmul.default, arguments, like=computed, before=node)


def _sum(edit: Edit, computed: fx.Node, node: fx.Node) -> fx.Node | None:
    a, b = (_activations(edit, argument) for argument in computed.args[:2])
    if a is None or b is None:
        return None
    return edit.call(_ops.qlinear_add.default, (*a, *b, *node.args[1:3]), like=computed, before=node)
