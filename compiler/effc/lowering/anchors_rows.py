"""Softmax and normalisations along the last axis, as blocks that say what is done with a row: see `kernels.rows`.

The kernel takes float32; float64, which TVM's own normalisations refuse, is scheduled block by block. Other types and axes are left to TVM.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from effc.lowering.kernels.fused import ANCHOR
from effc.lowering.kernels.rows import ROW
from effc.lowering.relax_edit import Main

__all__ = ["OPAQUE", "Row", "called", "layer_norm", "log_softmax", "rms_norm", "softmax"]

_TYPES = ("float32", "float64")
OUT_ELEMENTWISE, OPAQUE = 4, 8  # relax's patterns of functions that elementwise operators are fused behind, and that nothing is
Expression = Callable[..., Any]


def softmax(builder: Any, call: Any, main: Main) -> Any:
    """exp(x - largest) / sum: NaN in a row of nothing but minus infinity, as torch has it."""

    def made(row: Row, x: Any) -> Any:
        from tvm import tirx

        largest = row.reduced("max", x, "largest")
        raised = row.each("raised", lambda *i: tirx.exp(x[i] - largest[i[:-1]]), "keep")
        total = row.reduced("sum", raised, "total")
        factor = row.once("factor", lambda *i: tirx.const(1.0, x.dtype) / total[i])
        return row.result(lambda *i: raised[i] * factor[i[:-1]])

    return _function(builder, call, "softmax", made) if _is_last(call) else None


def log_softmax(builder: Any, call: Any, main: Main) -> Any:
    """x - largest - log(sum of exp(x - largest))."""

    def made(row: Row, x: Any) -> Any:
        from tvm import tirx

        largest = row.reduced("max", x, "largest")
        raised = row.each("raised", lambda *i: tirx.exp(x[i] - largest[i[:-1]]))
        total = row.reduced("sum", raised, "total")
        shift = row.once("shift", lambda *i: tirx.log(total[i]))
        return row.result(lambda *i: x[i] - largest[i[:-1]] - shift[i[:-1]])

    return _function(builder, call, "log_softmax", made) if _is_last(call) else None


def layer_norm(builder: Any, call: Any, main: Main) -> Any:
    """(x - mean) / sqrt(mean of (x - mean)^2 + epsilon) * scale + shift, the variance from centred values."""
    attrs = call.attrs
    epsilon, scaled, shifted = float(attrs.epsilon), bool(attrs.scale), bool(attrs.center)

    def made(row: Row, x: Any, *weights: Any) -> Any:
        from tvm import tirx

        share = tirx.const(1.0 / row.length, x.dtype)
        total = row.reduced("sum", x, "total")
        mean = row.once("mean", lambda *i: total[i] * share)
        square = row.each("square", lambda *i: (x[i] - mean[i[:-1]]) * (x[i] - mean[i[:-1]]))
        spread = row.reduced("sum", square, "spread")
        factor = row.once("factor", lambda *i: _inverse_root(spread[i] * share, epsilon))

        def element(*i: Any) -> Any:
            value = (x[i] - mean[i[:-1]]) * factor[i[:-1]]
            left = iter(weights)
            if scaled:
                value = value * next(left)[i[-1]]
            return value + next(left)[i[-1]] if shifted else value

        return row.result(element)

    weights = [weight for weight, used in zip(call.args[1:3], (scaled, shifted), strict=True) if used]
    return _over_axes(builder, call, "layer_norm", weights, made)


def rms_norm(builder: Any, call: Any, main: Main) -> Any:
    """x / sqrt(mean of x^2 + epsilon) * scale."""
    epsilon = float(call.attrs.epsilon)

    def made(row: Row, x: Any, weight: Any) -> Any:
        from tvm import tirx

        share = tirx.const(1.0 / row.length, x.dtype)
        square = row.each("square", lambda *i: x[i] * x[i])
        total = row.reduced("sum", square, "total")
        factor = row.once("factor", lambda *i: _inverse_root(total[i] * share, epsilon))
        return row.result(lambda *i: x[i] * factor[i[:-1]] * weight[i[-1]])

    return _over_axes(builder, call, "rms_norm", [call.args[1]], made)


class Row:
    """Makes the blocks of one function over rows of `shape[-1]` elements."""

    def __init__(self, shape: list[int]) -> None:
        self.shape, self.length = shape, shape[-1]

    def each(self, name: str, element: Expression, role: str = "") -> Any:
        """A row of expressions."""
        from tvm import te

        return te.compute(self.shape, element, name=name, attrs={ROW: role} if role else None)

    def once(self, name: str, element: Expression) -> Any:
        from tvm import te

        return te.compute(self.shape[:-1], element, name=name, attrs={ROW: "once"})

    def reduced(self, role: str, x: Any, name: str) -> Any:
        from tvm import te

        along = te.reduce_axis((0, self.length), name="k")
        reduce = {"max": te.max, "sum": te.sum}[role]
        return te.compute(self.shape[:-1], lambda *i: reduce(x[(*i, along.var)], axis=along), name=name, attrs={ROW: role})

    def result(self, element: Expression) -> Any:
        from tvm import te

        return te.compute(self.shape, element, name="row", attrs={ANCHOR: "rows"})


def _inverse_root(value: Any, epsilon: float) -> Any:
    from tvm import tirx

    dtype = str(value.ty.dtype)
    return tirx.const(1.0, dtype) / tirx.sqrt(value + tirx.const(epsilon, dtype))


def _sizes(x: Any) -> list[int]:
    return [int(size) for size in x.ty.shape]


def _is_last(call: Any) -> bool:
    rank = len(call.ty.shape)
    return int(call.attrs.axis) % rank == rank - 1 if rank else False


def _function(builder: Any, call: Any, name: str, made: Callable[..., Any]) -> Any:
    """A call of the function that `made` describes for the operand of `call`; None for other types."""
    if str(call.ty.dtype) not in _TYPES:
        return None
    shape = _sizes(call)
    if len(shape) == 1:  # a row by itself: the function has rows
        from tvm import relax

        first = builder.emit(relax.op.reshape(call.args[0], [1, *shape]))
        row = builder.emit(called(builder, [first, *call.args[1:]], name, [1, *shape], made))
        return relax.op.reshape(row, shape)
    return called(builder, list(call.args), name, shape, made)


def called(
    builder: Any, operands: list[Any], name: str, shape: list[int], made: Callable[..., Any], *, pattern: int = OUT_ELEMENTWISE
) -> Any:
    """A call of the function that `made(row, tensors...)` describes; `pattern` says whether operators may be fused behind it."""
    result = builder.call_te(lambda *tensors: made(Row(shape), *tensors), *operands, primfunc_name_hint=name)
    function = builder.get()[result.args[0]]
    builder.update_func(result.args[0], function.with_attr("op_pattern", pattern))
    return result


def _over_axes(builder: Any, call: Any, name: str, weights: list[Any], made: Callable[..., Any]) -> Any:
    """The function over the last axes as one; None for other axes or types."""
    from tvm import relax

    shape = _sizes(call)
    axes = sorted(int(axis) % len(shape) for axis in call.attrs.axes)
    if axes != list(range(len(shape) - len(axes), len(shape))) or str(call.ty.dtype) not in _TYPES:
        return None
    if any(str(operand.ty.dtype) != str(call.ty.dtype) for operand in call.args):
        return None
    length = math.prod(shape[axis] for axis in axes)
    rows = [*shape[: axes[0]], length] if axes[0] else [1, length]
    x = call.args[0] if rows == shape else builder.emit(relax.op.reshape(call.args[0], rows))
    flat = [weight if len(weight.ty.shape) == 1 else builder.emit(relax.op.reshape(weight, [length])) for weight in weights]
    result = called(builder, [x, *flat], name, rows, made)
    return result if rows == shape else relax.op.reshape(builder.emit(result), shape)
