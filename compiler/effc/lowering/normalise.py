"""Cures, on the ATen graph, for what TVM's importer gets wrong without an error, or refuses without need.

- `aten.select.int` with a negative index reads foreign memory: the dimension's size is added.
- A pool whose strides are left out (an empty list means the window's size) is refused: they are written out.
- An average pool's `divisor_override` is ignored: the average over whole windows of the padded input is scaled by window / divisor.
- Comparisons of truth values are comparisons of bytes: TVM's code for them is refused by LLVM.
- Arithmetic on integers with a floating-point result (a count divided by 8, times 0.5) is computed in integers: operands are converted.
- `x != x`, which torch makes of isnan, is simplified to false: isnan goes in its place.
- `x * 0`, which torch makes of softshrink's middle, is simplified to 0 also where x is NaN or infinite: the 0 becomes a stored tensor.
- Index tensors that may hold negative values (of `index_put`, `take`) read foreign memory: `where(i < 0, i + n, i)` goes in front, unless
  their dtype is bool or unsigned, or their data are known and never negative. (`index.Tensor` has its own converter, which knows them.)
- Scatters that add are an `index_put`, which gets an index for every axis, `native_group_norm` gets its
  weights, an `adaptive_max_pool2d` with equal windows is a pool.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from effc.ir import Edit, Program
from effc.lowering.full_indices import scatter_add, write_out

__all__ = ["normalise"]

_aten = torch.ops.aten
_AVERAGES = (_aten.avg_pool1d.default, _aten.avg_pool2d.default, _aten.avg_pool3d.default)
_POOLS = (_aten.max_pool2d_with_indices.default, _aten.max_pool3d_with_indices.default, *_AVERAGES)
_COMPARISONS = tuple(getattr(getattr(_aten, name), kind) for name in ("eq", "ne", "lt", "le", "gt", "ge") for kind in ("Tensor", "Scalar"))
_PRODUCTS = (_aten.mul.Tensor, _aten.mul.Scalar)
_CONVERSIONS = (_aten._to_copy.default, _aten.to.dtype, _aten.clone.default)
_SCATTERS = (_aten.scatter_add.default, _aten.scatter_reduce.two)
_INDEX_PUTS = (_aten.index_put.default, _aten._unsafe_index_put.default)


def normalise(program: Program) -> Program:
    """The program in forms that TVM's importer takes and gets right (see above). Values are the same bit for bit, but for pools with a
    divisor of their own, which are rounded twice more.
    """
    edit = Edit(program)
    for node in edit.nodes:
        if node.target in _SCATTERS:
            scatter_add(edit, node)
        _real_operands(edit, node)
        if node.target == _aten.select.int:
            _select(node)
        elif node.target in _POOLS:
            _stride(node)
            if node.target in _AVERAGES and node.args[6:] not in ((), (None,)):
                _divisor(edit, node)
        elif node.target == _aten.ne.Tensor and node.args[0] is node.args[1]:
            # How torch spells isnan. TVM simplifies x != x to false.
            node.target, node.args = _aten.isnan.default, (node.args[0],)
        elif node.target in _PRODUCTS and node.args[1] == 0 and node.meta["val"].is_floating_point():
            zero = torch.full((), node.args[1], dtype=node.meta["val"].dtype)  # type: ignore[arg-type]  # with its sign
            node.target, node.args = _aten.mul.Tensor, (node.args[0], edit.add_tensor(f"{node.name}.zero", zero, kind="buffer"))
        elif node.target == _aten.adaptive_max_pool2d.default:
            _adaptive(node)
        elif node.target == _aten.native_group_norm.default:
            _group_norm(edit, node)
        elif node.target == _aten._unsafe_index.Tensor:
            node.target = _aten.index.Tensor  # the same, but for a check
        elif node.target in _COMPARISONS:
            node.args = tuple(_integer(edit, node, argument) for argument in node.args)
        elif node.target in _INDEX_PUTS:
            shape = node.args[0].meta["val"].shape  # type: ignore[union-attr]
            indices = list(node.args[1])  # type: ignore[arg-type]
            node.args = (node.args[0], _wrapped(edit, node, indices, shape), *node.args[2:])
            write_out(edit, node)
        elif node.target == _aten.take.default:
            elements = node.args[0].meta["val"].numel()  # type: ignore[union-attr]
            node.args = (node.args[0], *_wrapped(edit, node, [node.args[1]], [elements]))
    return edit.done()


def _real_operands(edit: Edit, node: fx.Node) -> None:
    """The integer operands of an elementwise operator with a floating-point result, in the type of that result, as torch promotes them."""
    target, fake = node.target, node.meta.get("val")
    elementwise = isinstance(target, torch._ops.OpOverload) and torch.Tag.pointwise in target.tags and target not in _CONVERSIONS
    if not elementwise or not isinstance(fake, torch.Tensor) or not fake.is_floating_point():
        return

    def real(argument: Any) -> Any:
        value = argument.meta["val"]
        if not isinstance(value, torch.Tensor) or value.is_floating_point() or value.is_complex():
            return argument
        return edit.call(_aten._to_copy.default, (argument,), {"dtype": fake.dtype}, like=node, before=node)

    first = 1 if target == _aten.where.self else 0  # its condition chooses, and is no operand
    node.args = (*node.args[:first], *fx.map_arg(node.args[first:], real))


def _stride(node: fx.Node) -> None:
    """A pool without strides moves by its window."""
    if len(node.args) > 2 and node.args[2] == []:
        node.args = (*node.args[:2], node.args[1], *node.args[3:])


def _divisor(edit: Edit, node: fx.Node) -> None:
    """Sums over windows with zeros for padding, divided by a number that is given."""
    source, window, strides, padding, _, _, divisor = node.args
    sizes, positions = (one.meta["val"].shape[-len(window) :] for one in (source, node))  # type: ignore[union-attr, arg-type]
    padding = list(padding) * (len(window) if len(padding) == 1 else 1)  # type: ignore[arg-type]
    pads: list[int] = []  # the last axis first
    for size, count, taps, step, before in reversed(list(zip(sizes, positions, window, strides, padding, strict=True))):  # type: ignore[arg-type]
        pads += [before, max(before, (int(count) - 1) * step + taps - int(size) - before)]  # with ceil_mode windows reach further
    padded = edit.call(_aten.constant_pad_nd.default, (source, pads, 0.0), like=node, before=node) if any(pads) else source
    average = edit.call(node.target, (padded, window, strides), like=node, before=node)  # type: ignore[arg-type]
    node.target, node.args = _aten.mul.Tensor, (average, math.prod(window) / divisor)  # type: ignore[arg-type, operator]


def _adaptive(node: fx.Node) -> None:
    """Windows that all have one size are those of a plain pool, and its results are the same pair."""
    sizes, wanted = node.args[0].meta["val"].shape[-2:], list(node.args[1])  # type: ignore[union-attr, arg-type]
    if all(int(size) % want == 0 for size, want in zip(sizes, wanted, strict=True)):
        window = [int(size) // want for size, want in zip(sizes, wanted, strict=True)]
        node.target, node.args = _aten.max_pool2d_with_indices.default, (node.args[0], window, window)


def _group_norm(edit: Edit, node: fx.Node) -> None:
    """Weights and biases that are left out are ones and zeros."""
    source, weight, bias, *rest = node.args
    value = source.meta["val"]  # type: ignore[union-attr]
    if weight is None:
        weight = edit.add_tensor(f"{node.name}.weight", torch.ones(value.shape[1], dtype=value.dtype), kind="buffer")
    if bias is None:
        bias = edit.add_tensor(f"{node.name}.bias", torch.zeros(value.shape[1], dtype=value.dtype), kind="buffer")
    node.args = (source, weight, bias, *rest)


def _integer(edit: Edit, node: fx.Node, argument: Any) -> Any:
    """Truth values as bytes: TVM compares them as floating point, which LLVM refuses."""
    if isinstance(argument, bool):
        return int(argument)
    if not isinstance(argument, fx.Node) or argument.meta["val"].dtype != torch.bool:
        return argument
    return edit.call(_aten._to_copy.default, (argument,), {"dtype": torch.int8}, like=node, before=node)


def _select(node: fx.Node) -> None:
    source, dimension, index = node.args
    if isinstance(index, int) and index < 0:
        node.args = (source, dimension, index + source.meta["val"].shape[dimension])  # type: ignore[union-attr]


def _wrapped(edit: Edit, node: fx.Node, indices: list[object], sizes: Sequence[int]) -> list[Any]:
    """The index operands, each made non-negative where it might not be."""
    wrapped: list[Any] = []
    axis = 0
    for index in indices:
        if not isinstance(index, fx.Node):
            wrapped.append(index)
            axis += 1
            continue
        kind = index.meta["val"].dtype
        if kind in (torch.bool, torch.uint8):
            wrapped.append(index)
            axis += index.meta["val"].ndim if kind == torch.bool else 1
            continue
        known = edit.tensor(index)
        if known is not None and bool((known >= 0).all()):
            wrapped.append(index)
        else:
            negative = edit.call(_aten.lt.Scalar, (index, 0), like=node, before=node)
            moved = edit.call(_aten.add.Tensor, (index, int(sizes[axis])), like=node, before=node)
            wrapped.append(edit.call(_aten.where.self, (negative, moved, index), like=node, before=node))
        axis += 1
    return wrapped
