"""What the quantised ops compute from stored tensors alone, as ATen nodes that `fold_parameters` then computes once.

    weights and their zero point    centred weights and the zero point 0: int8 where every difference fits, else int16
    x_scale, w_scale, y_scale       1, the multiplier (x_scale * w_scale) / y_scale, and 1
    dequantize_linear(stored)       the real numbers

The 1 and 0 are `aten.full` nodes: `effc.lowering.ops.quantised` sees their values and leaves out what they make superfluous. All results
are the same integers: each operation here is the one that the op's definition names, in its order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from effc.ir import Edit, Program
from effc.ir.ops.quantised import along

__all__ = ["with_constants"]

_aten, _ops = torch.ops.aten, torch.ops.effc
_BYTES = (torch.uint8, torch.int8)
_MOVES = (_aten.permute.default, _aten.view.default, _aten.clone.default, _aten.unsqueeze.default, _aten.squeeze.dims)

# Positions of (weights, their zero point), and of (x_scale, w_scale, y_scale), by op.
_WEIGHTS = {
    _ops.conv_integer.default: (1, 3),
    _ops.matmul_integer.default: (1, 3),
    _ops.qlinear_conv.default: (3, 5),
    _ops.qlinear_matmul.default: (3, 5),
}
_SCALES = {_ops.qlinear_conv.default: (1, 4, 6), _ops.qlinear_matmul.default: (1, 4, 6)}
_CONVOLUTIONS = (_ops.conv_integer.default, _ops.qlinear_conv.default)


def with_constants(program: Program) -> Program:
    """The program with these computations written out where their operands are stored tensors."""
    targets = (*_WEIGHTS, _ops.dequantize_linear.default)
    if not any(node.target in targets for node in program.nodes):
        return program
    edit = Edit(program)
    for node in edit.nodes:
        if node.target in _WEIGHTS:
            _centred(edit, node, lambda stored: program.tensor_names[_root(stored).name])
        if node.target in _SCALES:
            _multiplier(edit, node)
        if node.target is _ops.dequantize_linear.default:
            _real(edit, node)
    return edit.done()


def _centred(edit: Edit, node: fx.Node, name_of: Callable[[Any], str]) -> None:
    """Weights without a zero point."""
    at_weights, at_zero = _WEIGHTS[node.target]  # type: ignore[index]
    weights, zero = _stored(edit, node.args[at_weights]), _stored(edit, node.args[at_zero])
    if weights is None or zero is None or weights.dtype not in _BYTES or weights.ndim < 2:
        return
    axis = 0 if node.target in _CONVOLUTIONS else weights.ndim - 1
    aligned = along(zero, weights.ndim, axis)
    centred = weights.to(torch.int16) - aligned.to(torch.int16)
    limits = torch.iinfo(torch.int8)
    fits = not centred.numel() or (int(centred.min()) >= limits.min and int(centred.max()) <= limits.max)
    result = node.args[at_weights]
    if not fits:  # twice as large, which `fold_parameters` would rather compute every time
        result = edit.add_tensor(f"{name_of(result)}.centred", centred, kind="buffer")
    elif weights.dtype != torch.int8 or bool(zero.any()):
        call = _caller(edit, node)
        steps = _shaped(call, node.args[at_zero], aligned)
        # differences of bytes are taken modulo 256: those that fit are right
        result = call(_aten.sub.Tensor, _cast(call, result, torch.int8), _cast(call, steps, torch.int8))
    arguments = list(node.args)
    arguments[at_weights], arguments[at_zero] = result, _number(edit, node, 0, torch.int8)
    node.args = tuple(arguments)


def _multiplier(edit: Edit, node: fx.Node) -> None:
    """One scale instead of three."""
    positions = _SCALES[node.target]  # type: ignore[index]
    call, scales = _caller(edit, node), []
    for position in positions:
        value = _stored(edit, node.args[position])
        if value is None:
            return
        scales.append(_shaped(call, node.args[position], along(value, 1, 0)))
    x_scale, w_scale, y_scale = scales
    multiplier = call(_aten.div.Tensor, call(_aten.mul.Tensor, x_scale, w_scale), y_scale)
    arguments, one = list(node.args), _number(edit, node, 1.0, torch.float32)
    for position, scale in zip(positions, (one, _cast(call, multiplier, torch.float32), one), strict=True):
        arguments[position] = scale
    node.args = tuple(arguments)


def _real(edit: Edit, node: fx.Node) -> None:
    """Stored integers as the real numbers that they stand for."""
    x, scale, zero = (_stored(edit, argument) for argument in node.args[:3])
    if x is None or scale is None or zero is None:
        return
    axis = int(node.args[3])  # type: ignore[arg-type]
    call = _caller(edit, node)
    scale_node = _shaped(call, node.args[1], along(scale, x.ndim, axis))
    zero_node = _shaped(call, node.args[2], along(zero, x.ndim, axis))
    steps = call(_aten.sub.Tensor, _cast(call, node.args[0], torch.int32), _cast(call, zero_node, torch.int32))
    real = call(_aten.mul.Tensor, _cast(call, _cast(call, steps, torch.float32), scale.dtype), scale_node)
    edit.replace(node, real)
    edit.erase(node)


def _stored(edit: Edit, node: Any) -> Tensor | None:
    """The value of a stored tensor, or of what moves the elements of one; None where it is another."""
    if isinstance(node, fx.Node) and node.target in _MOVES:
        source = _stored(edit, node.args[0])
        return None if source is None else node.target(source, *node.args[1:], **node.kwargs)
    return edit.tensor(node)


def _root(node: Any) -> Any:
    """The stored tensor whose elements a node moves."""
    return _root(node.args[0]) if node.target in _MOVES else node


def _caller(edit: Edit, node: fx.Node) -> Any:
    return lambda target, *operands, **options: edit.call(target, operands, options, like=node, before=node)


def _shaped(call: Any, value: Any, like: Tensor) -> Any:
    fake: Tensor = value.meta["val"]
    return value if fake.shape == like.shape else call(_aten.view.default, value, list(like.shape))


def _cast(call: Any, value: Any, dtype: torch.dtype) -> Any:
    fake: Tensor = value.meta["val"]
    return value if fake.dtype == dtype else call(_aten._to_copy.default, value, dtype=dtype)


def _number(edit: Edit, node: fx.Node, value: float, dtype: torch.dtype) -> fx.Node:
    return edit.call(_aten.full.default, ([], value), {"dtype": dtype}, like=node, before=node)
