"""Anchors of quantised networks: convolutions and matrix products of centred bytes, and what quantises: saturation and
rounding.

`effc.lowering.ops.quantised` spells a quantised convolution as `conv(int16(x) - int16(zero_point), w)`. Here the function gets the
bytes themselves: the subtraction becomes a block in front of the sum (annotated `effc.centred`), so that a kernel can leave it away or do
it where it likes. What has another form is left to the other rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from effc.lowering.kernels.fused import ANCHOR
from effc.lowering.relax_edit import Main, operator_name

__all__ = ["first", "integer_convolution", "integer_matmul", "rounding", "saturation", "with_own_number"]

_BYTES = ("int8", "uint8")
_MOVES = ("relax.permute_dims", "relax.reshape")
Rule = Callable[[Any, Any, Main], Any]


def first(*rules: Rule) -> Rule:
    """The first rule's result that is one."""

    def rule(builder: Any, call: Any, main: Main) -> Any:
        results = (one(builder, call, main) for one in rules)
        return next((result for result in results if result is not None), None)

    return rule


def integer_convolution(builder: Any, call: Any, main: Main) -> Any:
    """A channels-last convolution of centred bytes and stored integers, summed in int32; None for another."""
    from tvm import te

    attrs = call.attrs
    axes = len(call.ty.shape) - 2
    if str(call.ty.dtype) != "int32" or str(attrs.data_layout) != {1: "NWC", 2: "NHWC", 3: "NDHWC"}[axes]:
        return None
    image, weights = _centred(builder, call.args[0], main), call.args[1]
    if image is None or not _stored(weights, main):
        return None
    strides, dilation, groups = _integers(attrs.strides), _integers(attrs.dilation), int(attrs.groups)
    padding, shape = _integers(attrs.padding), _integers(call.ty.shape)
    before, after = padding[:axes], padding[axes:]

    def function(x: Any, zero: Any, w: Any) -> Any:
        window, channels = _integers(w.shape)[1:-1], int(w.shape[-1])
        source = _padded(_steps(x, zero), before, after)
        taps = [te.reduce_axis((0, size), name=f"k{axis}") for axis, size in enumerate(window)]
        depth = te.reduce_axis((0, channels), name="c")
        features = shape[-1] // groups

        def element(*index: Any) -> Any:
            places = [at * stride + tap.var * step for at, stride, tap, step in zip(index[1:-1], strides, taps, dilation, strict=True)]
            channel = depth.var if groups == 1 else index[-1] // features * channels + depth.var
            left, right = source[(index[0], *places, channel)], w[(index[-1], *(tap.var for tap in taps), depth.var)]
            return te.sum(left.astype("int32") * right.astype("int32"), axis=[*taps, depth])

        annotations = {
            ANCHOR: "integer_convolution",
            "effc.strides": strides,
            "effc.dilation": dilation,
            "effc.before": before,
            "effc.after": after,
            "effc.groups": groups,
        }
        return te.compute(shape, element, name="convolution", attrs=annotations)

    return builder.call_te(function, *image, weights, primfunc_name_hint=f"integer_conv{axes}d")


def integer_matmul(builder: Any, call: Any, main: Main) -> Any:
    """A product of centred bytes with a stored matrix of integers or other centred bytes, summed in int32; None for another."""
    from tvm import te

    shapes = [_integers(operand.ty.shape) for operand in call.args[:2]]
    if str(call.ty.dtype) != "int32" or min(len(shape) for shape in shapes) < 2 or 0 in (*shapes[0], *shapes[1]):
        return None
    rows, weights = _centred(builder, call.args[0], main), call.args[1]
    if rows is None:
        return None
    columns = (weights,) if len(shapes[1]) == 2 and _stored(weights, main) else _centred(builder, weights, main)
    if columns is None:
        return None

    def function(*tensors: Any) -> Any:
        left = _steps(*tensors[:2])
        right = tensors[2] if len(tensors) == 3 else _steps(*tensors[2:])
        depth = te.reduce_axis((0, shapes[0][-1]), name="k")

        def element(*index: Any) -> Any:
            a, b = (
                [0 if size == 1 else place for size, place in zip(shape[:-2], index[len(index) - len(shape) : -2], strict=True)]
                for shape in shapes
            )
            first, second = left[(*a, index[-2], depth.var)], right[(*b, depth.var, index[-1])]
            return te.sum(first.astype("int32") * second.astype("int32"), axis=depth)

        return te.compute(_integers(call.ty.shape), element, name="matmul", attrs={ANCHOR: "integer_matmul"})

    return builder.call_te(function, *rows, *columns, primfunc_name_hint="integer_matmul")


def saturation(builder: Any, call: Any, main: Main) -> Any:
    """`where(x > c, x, c)` and `where(x < c, x, c)` for one number c, as one maximum or minimum: c where x is NaN, as it says there."""
    from tvm import te, tirx

    kept, limit = call.args[1:3]
    test: Any = main.bound.get(call.args[0])
    extreme = {"relax.greater": tirx.max, "relax.less": tirx.min}.get(operator_name(test))
    if extreme is None or str(kept.ty.dtype) != "float32" or len(limit.ty.shape) or _integers(call.ty.shape) != _integers(kept.ty.shape):
        return None
    if not test.args[0].same_as(kept) or not test.args[1].same_as(limit):
        return None

    def saturated(x: Any, bound: Any) -> Any:
        return te.compute(x.shape, lambda *index: extreme(x[index], bound[()]), name="saturated")

    return builder.call_te(saturated, kept, _own(builder, limit, main), primfunc_name_hint="saturate")


def with_own_number(builder: Any, call: Any, main: Main) -> Any:
    """An elementwise operator with a number that others read, too, gets one of its own: relax fuses what has one reader."""
    from tvm import relax

    operands = [_own(builder, operand, main) for operand in call.args]
    if all(one.same_as(other) for one, other in zip(operands, call.args, strict=True)):
        return None
    return relax.Call(call.op, operands, call.attrs, call.ty_args)


def rounding(builder: Any, call: Any, main: Main) -> Any:
    """`int32(round(x))` as the one instruction that it is; what has no int32 is as open as it is there."""
    from tvm import te, tirx

    inner: Any = main.bound.get(call.args[0])
    if operator_name(inner) != "relax.round" or str(call.ty.dtype) != "int32" or str(inner.ty.dtype) != "float32":
        return None

    def rounded(x: Any) -> Any:
        return te.compute(x.shape, lambda *index: tirx.call_llvm_pure_intrin("int32", "llvm.lrint", x[index]), name="rounded")

    return builder.call_te(rounded, inner.args[0], primfunc_name_hint="round")


def _own(builder: Any, operand: Any, main: Main) -> Any:
    """A number computed anew, if casts and differences are all that it takes; anything else as it is."""
    from tvm import relax

    value: Any = main.bound.get(operand) if isinstance(operand, relax.Var) else None
    if getattr(operand.ty, "ndim", None) != 0 or operator_name(value) not in ("relax.astype", "relax.subtract"):
        return operand
    return builder.emit(relax.Call(value.op, [_own(builder, part, main) for part in value.args], value.attrs, value.ty_args))


def _integers(values: Any) -> list[int]:
    return [int(value) for value in values]


def _moved(builder: Any, operand: Any, moves: Sequence[Any]) -> Any:
    """What a chain of transpositions and views (the last one first) makes of another operand."""
    from tvm import relax

    for move in reversed(moves):
        operand = builder.emit(relax.Call(move.op, [operand, *list(move.args)[1:]], move.attrs, move.ty_args))
    return operand


def _behind(operand: Any, main: Main) -> tuple[Any, list[Any]]:
    """What moves an operand's elements, and the call that computes them; None for an argument of main."""
    moves = []
    call: Any = main.bound.get(operand)
    while operator_name(call) in _MOVES:
        moves.append(call)
        operand = call.args[0]
        call = main.bound.get(operand)
    return (call if call is not None else operand), moves


def _stored(operand: Any, main: Main) -> bool:
    """Whether an operand holds integers of 8 or 16 bits as main gets them."""
    from tvm import relax

    found, _ = _behind(operand, main)
    return isinstance(found, relax.Var) and str(operand.ty.dtype) in ("int8", "int16")


def _centred(builder: Any, operand: Any, main: Main) -> tuple[Any, Any] | None:
    """(bytes, zero point of one element) of an operand `int16(bytes) - int16(zero point)`; None for another."""
    found, moves = _behind(operand, main)
    if operator_name(found) != "relax.subtract":
        return None
    values, inner = _behind(found.args[0], main)
    zero: Any = main.bound.get(found.args[1])
    if operator_name(values) != "relax.astype" or operator_name(zero) != "relax.astype" or str(values.ty.dtype) != "int16":
        return None
    x, point = values.args[0], zero.args[0]
    if str(x.ty.dtype) not in _BYTES or str(point.ty.dtype) != str(x.ty.dtype) or math.prod(_integers(point.ty.shape)) != 1:
        return None
    if _integers(values.ty.shape if not inner else inner[0].ty.shape) != _integers(found.ty.shape):
        return None
    return _moved(builder, x, [*moves, *inner]), point


def _steps(x: Any, zero: Any) -> Any:
    from tvm import te

    return te.compute(
        x.shape,
        lambda *index: x[index].astype("int16") - zero[(0,) * len(zero.shape)].astype("int16"),
        name="steps",
        attrs={"effc.centred": 1},
    )


def _padded(source: Any, before: list[int], after: list[int]) -> Any:
    from tvm import te, tirx

    if not any((*before, *after)):
        return source
    sizes = _integers(source.shape)[1:-1]

    def element(*index: Any) -> Any:
        places = [place - a for place, a in zip(index[1:-1], before, strict=True)]
        inside = [test for place, size in zip(places, sizes, strict=True) for test in (place >= 0, place < size)]
        return tirx.if_then_else(tirx.all(*inside), source[(index[0], *places, index[-1])], tirx.const(0, source.dtype))

    padded = [a + size + b for size, a, b in zip(sizes, before, after, strict=True)]
    return te.compute([source.shape[0], *padded, source.shape[-1]], element, name="padded", attrs={"effc.pad": 1})
