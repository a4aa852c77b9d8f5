"""What TVM's own TIR functions get wrong about NaN: comparisons, extremes and rectifiers that hand NaN on, as torch does.

TVM computes `max(x, y)` as `x > y ? x : y`, which drops a NaN in x: a rectifier then makes 0 of it, and a fault that turns an activation
into NaN would vanish from compiled code but not from the program. The forms here cost no more: `x < 0 ? 0 : x` is one vector instruction.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from effc.lowering.anchors_pool import max_pool
from effc.lowering.broadcasting import element

__all__ = ["NAN_KEEPING"]

Legalise = Callable[[Any, Any], Any]


def _relu(builder: Any, call: Any) -> Any:
    from tvm import te, tirx

    def relu(x: Any) -> Any:
        zero = tirx.const(0, x.dtype)
        return te.compute(x.shape, lambda *i: tirx.Select(x[i] < zero, zero, x[i]), name="relu")

    return builder.call_te(relu, call.args[0])


def _clip(builder: Any, call: Any) -> Any:
    """min(max(x, low), high): where low is above high, all is high."""
    from tvm import te, tirx

    low, high = (bound.value for bound in call.args[1:3])

    def clip(x: Any) -> Any:
        def element(*i: Any) -> Any:
            value = x[i]
            if low > -math.inf:  # an open side, which no integer could express
                value = tirx.Select(value < tirx.const(low, x.dtype), tirx.const(low, x.dtype), value)
            if high < math.inf:
                value = tirx.Select(value > tirx.const(high, x.dtype), tirx.const(high, x.dtype), value)
            return value

        return te.compute(x.shape, element, name="clip")

    return builder.call_te(clip, call.args[0])


def _extreme(name: str) -> Legalise:
    def legalise(builder: Any, call: Any) -> Any:
        from tvm import te, tirx

        shape = [int(size) for size in call.ty.shape]

        def extreme(a: Any, b: Any) -> Any:
            def larger(*index: Any) -> Any:
                left, right = element(a, index, shape), element(b, index, shape)
                ahead = left > right if name == "maximum" else left < right
                return tirx.Select(tirx.any(ahead, tirx.isnan(left)) if _is_float(a.dtype) else ahead, left, right)

            return te.compute(shape, larger, name=name)

        return builder.call_te(extreme, call.args[0], call.args[1], primfunc_name_hint=name)

    return legalise


def _is_float(dtype: Any) -> bool:
    return "float" in str(dtype)


def _sign(builder: Any, call: Any) -> Any:
    """-1, 0 or 1; of NaN 0, as torch has it."""
    from tvm import te, tirx

    def sign(x: Any) -> Any:
        zero, one = tirx.const(0, x.dtype), tirx.const(1, x.dtype)
        return te.compute(x.shape, lambda *i: tirx.Select(x[i] > zero, one, tirx.Select(x[i] < zero, -one, zero)), name="sign")

    return builder.call_te(sign, call.args[0])


def _position(name: str) -> Legalise:
    """`argmax` and `argmin`: the first NaN where there is one, else the first extreme."""

    def legalise(builder: Any, call: Any) -> Any:
        from tvm import te, tirx

        axis, keep = call.attrs.axis, bool(call.attrs.keepdims)
        shape = [int(size) for size in call.ty.shape]
        index_dtype = str(call.ty.dtype)

        def better(left: tuple[Any, Any], right: tuple[Any, Any]) -> tuple[Any, Any]:
            (i, a), (j, b) = left, right
            ahead = a > b if name == "argmax" else a < b
            first = tirx.all(a == b, i < j)
            if _is_float(a.ty.dtype):
                number = tirx.Not(tirx.isnan(b))
                ahead = tirx.any(tirx.all(ahead, number), tirx.all(tirx.isnan(a), tirx.any(number, i < j)))
            chosen = tirx.any(ahead, first)
            return tirx.Select(chosen, i, j), tirx.Select(chosen, a, b)

        def nothing(index_type: str, value_type: str) -> tuple[Any, Any]:
            if _is_float(value_type):
                worst = tirx.const(float("-inf") if name == "argmax" else float("inf"), value_type)
            else:
                worst = tirx.min_value(value_type) if name == "argmax" else tirx.max_value(value_type)
            return tirx.max_value(index_type), worst

        def position(x: Any) -> Any:
            sizes = [int(size) for size in x.shape]
            axes = list(range(len(sizes))) if axis is None else [int(axis) % len(sizes)]
            along = [te.reduce_axis((0, sizes[one]), name=f"k{one}") for one in axes]
            reducer = te.comm_reducer(better, nothing, name=name)

            def element(*index: Any) -> Any:
                outer = iter(index if not keep else [i for place, i in enumerate(index) if place not in axes])
                inner = dict(zip(axes, along, strict=True))
                places = [inner[one].var if one in inner else next(outer) for one in range(len(sizes))]
                flat = 0
                for one in axes:
                    flat = flat * sizes[one] + inner[one].var
                return reducer((tirx.Cast(index_dtype, flat), x[tuple(places)]), axis=along)

            return te.compute(shape, element, name=name)[0]

        return builder.call_te(position, call.args[0], primfunc_name_hint=name)

    return legalise


# Relax operators whose TIR function effc writes itself.
NAN_KEEPING: dict[str, Legalise] = {
    "relax.argmax": _position("argmax"),
    "relax.argmin": _position("argmin"),
    "relax.clip": _clip,
    "relax.maximum": _extreme("maximum"),
    "relax.minimum": _extreme("minimum"),
    "relax.nn.max_pool1d": max_pool,
    "relax.nn.max_pool2d": max_pool,
    "relax.nn.max_pool3d": max_pool,
    "relax.nn.relu": _relu,
    "relax.sign": _sign,
}
