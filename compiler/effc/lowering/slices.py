"""Slices move in front of operators that compute every row by itself: rows that are not needed are not computed.

A classifier on a transformer reads one token of the last layer. Its slice passes the last normalisation, the additions and products, and
attention, of which one query is left:

    before: slice(layer_norm(add(x, matmul(y, w))))
    after:  layer_norm(add(slice(x), matmul(slice(y), w)))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from effc.lowering.elementwise_operators import SEVERAL, UNARY
from effc.lowering.moves import groups, slice_bounds
from effc.lowering.relax_edit import Main, known_sizes, operator_name

__all__ = ["in_front"]

Emit = Callable[[Any], Any]
Cut = Callable[[Any, int], Any]  # (tensor, axis) -> its part


def in_front(emit: Emit, call: Any, main: Main) -> Any:
    """A slice along one axis of what nothing else reads, as the operator of a slice; None for any other call."""
    from tvm import relax

    if operator_name(call) != "relax.strided_slice" or not isinstance(call.args[0], relax.Var):
        return None
    if len(main.users.get(call.args[0], ())) != 1:
        return None
    inner, bounds = main.bound.get(call.args[0]), slice_bounds(call)
    before, after = known_sizes(call.args[0]), known_sizes(call)
    if inner is None or bounds is None or before is None or after is None or 0 in before or 0 in after:
        return None
    axes = [axis for axis in range(len(before)) if before[axis] != after[axis]]
    if len(axes) != 1 or 2 * after[axes[0]] > before[axes[0]]:  # little is saved, and every operand would be copied
        return None
    first, step = bounds[axes[0]]
    length = after[axes[0]]

    def cut(x: Any, axis: int) -> Any:
        return emit(relax.op.strided_slice(x, [axis], [first], [first + (length - 1) * step + 1], [step]))

    return _moved(inner, before, axes[0], cut)


def _moved(inner: Any, sizes: list[int], axis: int, cut: Cut) -> Any:
    """An operator whose result, of these sizes, is cut along an axis, as the operator of what is cut; None where the axis is not free."""
    name = operator_name(inner)
    if name in UNARY:
        return _again(inner, [cut(inner.args[0], axis), *inner.args[1:]])
    if name in SEVERAL:
        return _again(inner, [_cut_aligned(x, axis - len(sizes), cut) for x in inner.args])
    rule = _RULES.get(name)
    return None if rule is None else rule(inner, sizes, axis, cut)


def _again(call: Any, arguments: list[Any]) -> Any:
    from tvm import relax

    return relax.Call(call.op, arguments, call.attrs, call.ty_args)


def _cut_aligned(x: Any, axis: int, cut: Cut) -> Any:
    """A broadcast operand along an axis that is counted from the end; as it is where it has one element there."""
    own = known_sizes(x)
    return x if own is None or len(own) < -axis or own[axis] == 1 else cut(x, len(own) + axis)


def _reshape(call: Any, sizes: list[int], axis: int, cut: Cut) -> Any:
    from tvm import relax

    before = known_sizes(call.args[0])
    if before is None:
        return None
    source = next((source for source, result in groups(before, sizes) if result == [axis] and len(source) == 1), None)
    if source is None:
        return None
    part = cut(call.args[0], source[0])
    return relax.op.reshape(part, [*sizes[:axis], int(part.ty.shape[source[0]]), *sizes[axis + 1 :]])


def _permute(call: Any, sizes: list[int], axis: int, cut: Cut) -> Any:
    axes = list(reversed(range(len(sizes)))) if call.attrs.axes is None else [int(one) % len(sizes) for one in call.attrs.axes]
    return _again(call, [cut(call.args[0], axes[axis])])


def _matmul(call: Any, sizes: list[int], axis: int, cut: Cut) -> Any:
    """Rows of the result; columns would cut a stored matrix."""
    left, right = call.args
    if axis == len(sizes) - 1 or min(left.ty.ndim, right.ty.ndim) < 2:
        return None
    from_end = axis - len(sizes)
    return _again(call, [_cut_aligned(left, from_end, cut), right if from_end == -2 else _cut_aligned(right, from_end, cut)])


def _norm(call: Any, sizes: list[int], axis: int, cut: Cut) -> Any:
    normalised = call.attrs.axes if hasattr(call.attrs, "axes") else [call.attrs.axis]
    if axis in [int(one) % len(sizes) for one in normalised]:
        return None
    return _again(call, [cut(call.args[0], axis), *call.args[1:]])


def _attention(call: Any, sizes: list[int], axis: int, cut: Cut) -> Any:
    """Some of the queries; a causal mask counts them from the first."""
    if axis != 1 or call.attrs.causal_mask is not None:
        return None
    return _again(call, [cut(call.args[0], 1), *call.args[1:3], *(_cut_aligned(bias, -2, cut) for bias in call.args[3:])])


_RULES: dict[str, Callable[[Any, list[int], int, Cut], Any]] = {
    "relax.matmul": _matmul,
    "relax.nn.attention": _attention,
    "relax.nn.attention_bias": _attention,
    "relax.nn.layer_norm": _norm,
    "relax.nn.log_softmax": _norm,
    "relax.nn.rms_norm": _norm,
    "relax.nn.softmax": _norm,
    "relax.permute_dims": _permute,
    "relax.reshape": _reshape,
}
