"""Fold a batch norm into the convolution or linear layer in front of it.

    before: batch_norm(conv(x, W, b), gamma, beta, mean, var, training=False)
    after:  conv(x, W * s, (b - mean) * s + beta)      with s = gamma / sqrt(var + eps), per output channel

Does not fire where the layer's result has other users, where batch norm trains, or where s is not finite. A weight that other nodes read,
too, is left to them and a copy is scaled.

Tolerance: s and the new tensors are computed in float64 and rounded once, so each weight is off by at most 2^-24 of itself, and the sum of
a convolution by at most that share of sum |w x|. Where positive and negative terms cancel, this is more than 2^-24 of the result;
1e-4 of the output's largest magnitude leaves room for that through some hundred layers.

Paper: S. Ioffe and C. Szegedy, arXiv 1502.03167, section 3.1 (at inference the normalisation is a linear transform).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, fx

from effc.ir import Edit, Program, keyword_arguments, source_of
from effc.passes.base import Context, Pass
from effc.passes.prune import Prune

__all__ = ["FoldBatchNorm"]

_aten = torch.ops.aten
_CONVOLUTIONS = frozenset(
    {
        _aten.conv1d.default,
        _aten.conv2d.default,
        _aten.conv3d.default,
        _aten.conv1d.padding,
        _aten.conv2d.padding,
        _aten.conv3d.padding,
    }
)
_TRANSPOSED = frozenset({_aten.conv_transpose1d.default, _aten.conv_transpose2d.input, _aten.conv_transpose3d.input})
_LAYERS = _CONVOLUTIONS | _TRANSPOSED | {_aten.linear.default}
_BIAS = 2  # its position in every layer's arguments


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Fold batch norm into the convolution or linear layer in front of it."""

    name: ClassVar[str] = "fold-batch-norm"
    exact: ClassVar[bool] = True
    tolerance: ClassVar[float] = 1e-4
    after: ClassVar[tuple[type[Pass], ...]] = (Prune,)  # which trains batch norms

    def run(self, program: Program, context: Context) -> Program:
        edit = Edit(program)
        for norm in edit.nodes:
            if norm.target == _aten.batch_norm.default:
                why_not = _obstacle(edit, norm)
                if why_not:
                    context.log(self, norm, False, why_not)
                else:
                    layer = norm.args[0]
                    assert isinstance(layer, fx.Node)
                    _fold(edit, layer, norm)
                    context.log(self, norm, True, f"folded into {source_of(layer)}")
        return edit.done()


def _obstacle(edit: Edit, norm: fx.Node) -> str:
    """Why a batch norm cannot be folded; empty where it can."""
    arguments = keyword_arguments(norm)
    if arguments["training"]:
        return "it uses the batch's own statistics"
    layer = norm.args[0]
    if not isinstance(layer, fx.Node) or layer.target not in _LAYERS:
        return "no convolution or linear layer in front of it"
    if len(layer.users) > 1:
        return f"{source_of(layer)} has other users"
    if layer.kwargs or not isinstance(layer.args[1], fx.Node):
        return "its layer's arguments are in no usual form"
    if layer.meta["val"].ndim != layer.args[1].meta["val"].ndim:  # linear on (N, L, F), convolution of one sample without a batch
        return "it normalises another axis than the layer's output channels"
    stored = [arguments[name] for name in ("weight", "bias", "running_mean", "running_var") if arguments[name] is not None]
    stored += [one for one in layer.args[1:3] if one is not None]
    if arguments["running_mean"] is None or any(edit.tensor(one) is None for one in stored):
        return "a weight or a statistic is computed, not stored"
    if not bool(torch.isfinite(_scale(edit, norm)).all()):
        return "a scale gamma / sqrt(var + eps) is not finite"
    return ""


def _double(edit: Edit, node: object) -> Tensor:
    value = edit.tensor(node)
    assert value is not None
    return value.detach().double()


def _scale(edit: Edit, norm: fx.Node) -> Tensor:
    arguments = keyword_arguments(norm)
    scale = torch.rsqrt(_double(edit, arguments["running_var"]) + arguments["eps"])
    return scale if arguments["weight"] is None else scale * _double(edit, arguments["weight"])


def _fold(edit: Edit, layer: fx.Node, norm: fx.Node) -> None:
    arguments, scale = keyword_arguments(norm), _scale(edit, norm)
    weight_node, bias_node = layer.args[1], layer.args[_BIAS] if len(layer.args) > _BIAS else None
    assert isinstance(weight_node, fx.Node)
    weight = _double(edit, weight_node)
    scaled = _scaled_transposed(weight, scale) if layer.target in _TRANSPOSED else weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    shift = -_double(edit, arguments["running_mean"])
    if bias_node is not None:
        shift = shift + _double(edit, bias_node)
    shift = shift * scale
    if arguments["bias"] is not None:
        shift = shift + _double(edit, arguments["bias"])
    kind = norm.meta["val"].dtype
    name = source_of(layer)
    new_weight = _stored(edit, weight_node, scaled.to(kind), f"{name}.weight", layer)
    new_bias = _stored(edit, bias_node if isinstance(bias_node, fx.Node) else None, shift.to(kind), f"{name}.bias", layer)
    layer.args = (layer.args[0], new_weight, new_bias, *layer.args[_BIAS + 1 :])
    layer.meta["val"] = edit.fake_value(layer)
    edit.replace(norm, layer)
    edit.erase(norm)  # it would count as another user of the layer when a second batch norm follows


def _scaled_transposed(weight: Tensor, scale: Tensor) -> Tensor:
    """A transposed convolution's weight is (in, out / groups, ...): group g of the inputs makes outputs g * out / groups onwards."""
    groups = len(scale) // weight.shape[1]
    grouped = weight.reshape(groups, -1, *weight.shape[1:]) * scale.reshape(groups, 1, -1, *[1] * (weight.ndim - 2))
    return grouped.reshape(weight.shape)


def _stored(edit: Edit, old: fx.Node | None, value: Tensor, name: str, layer: fx.Node) -> fx.Node:
    """Put a value where the old one was when only this layer reads it, else beside it."""
    current = edit.tensor(old)
    if old is not None and current is not None and set(old.users) == {layer} and current.shape == value.shape:
        edit.set_tensor(old, value)
        return old
    return edit.add_tensor(name, value, kind="parameter")
