"""Pools, and sums over some axes, as TIR that says what it is: the part of `anchors` for operators without weights.

Maxima are written here for every layout, because TVM's own drop NaN; averages, so that their sums are apart from what those are divided by.
With channels last, and for sums over other axes than the last, they carry annotations, which `kernels.pool` and `kernels.totals` read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from effc.errors import InternalError
from effc.lowering.kernels.fused import ANCHOR

__all__ = ["adaptive_average_pool", "average_pool", "max_pool", "mean", "total"]

_LAYOUTS = ("NWC", "NHWC", "NDHWC", "NCW", "NCHW", "NCDHW")


@dataclass(frozen=True)
class _Geometry:
    """The windows of a pool along each spatial axis. `axes` are the places of these axes in the tensor.

    `before` and `after` are the padding as torch counts it; with ceil_mode windows may reach further.
    """

    axes: tuple[int, ...]
    sizes: tuple[int, ...]
    positions: tuple[int, ...]
    window: tuple[int, ...]
    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def channels_last(self) -> bool:
        return self.axes[0] == 1

    @property
    def reach(self) -> list[int]:
        """Where the last window ends in the padded input."""
        steps = zip(self.positions, self.strides, self.window, self.dilation, strict=True)
        return [(positions - 1) * stride + (taps - 1) * step + 1 for positions, stride, taps, step in steps]

    def places(self, index: Sequence[Any], taps: Sequence[Any]) -> list[Any]:
        """The index in the padded input of a tap of the window at an index of the output."""
        places = list(index)
        for axis, stride, tap, step in zip(self.axes, self.strides, taps, self.dilation, strict=True):
            places[axis] = places[axis] * stride + tap * step
        return places

    def annotations(self, kind: str) -> dict[str, Any]:
        if not self.channels_last:
            return {}
        numbers = {"window": self.window, "strides": self.strides, "dilation": self.dilation, "before": self.before}
        return {ANCHOR: kind} | {f"effc.{key}": list(sizes) for key, sizes in numbers.items()}


def max_pool(builder: Any, call: Any, main: Any = None) -> Any:
    """The largest element of each window, NaN where it holds one; padding is minus infinity."""
    from tvm import te, tirx

    geometry = _geometry(call)
    shape = _integers(call.ty.shape)

    def pool(x: Any) -> Any:
        floating = _is_float(x.dtype)
        lowest = tirx.const(float("-inf"), x.dtype) if floating else tirx.min_value(str(x.dtype))
        source = _padded(x, geometry, lowest)
        taps = _taps(geometry)

        def larger(a: Any, b: Any) -> Any:
            return tirx.Select(tirx.any(a > b, tirx.isnan(a)) if floating else a > b, a, b)

        reducer = te.comm_reducer(larger, lambda dtype: lowest, name="max")

        def element(*index: Any) -> Any:
            return reducer(source[tuple(geometry.places(index, [tap.var for tap in taps]))], axis=taps)

        return te.compute(shape, element, name="pool_max", attrs=geometry.annotations("max_pool"))

    return builder.call_te(pool, call.args[0], primfunc_name_hint=f"max_pool{len(geometry.axes)}d")


def average_pool(builder: Any, call: Any, main: Any = None) -> Any:
    """The mean of each window of floating-point numbers; others are left to TVM.

    Padding counts as zeros with count_include_pad; what lies beyond it never counts, as torch has it.
    """
    if not _is_float(call.ty.dtype):
        return None
    return _average(builder, call, _geometry(call), bool(call.attrs.count_include_pad))


def adaptive_average_pool(builder: Any, call: Any, main: Any = None) -> Any:
    """Averages over parts of an image where all parts have one size; others, and integers, are left to TVM."""
    axes = _spatial(call.attrs)
    if not _is_float(call.ty.dtype):
        return None
    sizes, positions = ([int(type_.shape[axis]) for axis in axes] for type_ in (call.args[0].ty, call.ty))
    if any(size % count for size, count in zip(sizes, positions, strict=True)):
        return None
    window = tuple(size // count for size, count in zip(sizes, positions, strict=True))
    none, one = (0,) * len(axes), (1,) * len(axes)
    return _average(builder, call, _Geometry(axes, tuple(sizes), tuple(positions), window, window, one, none, none), True)


def _average(builder: Any, call: Any, geometry: _Geometry, with_padding: bool) -> Any:
    from tvm import te, tirx

    shape = _integers(call.ty.shape)

    def pool(x: Any) -> Any:
        source = _padded(x, geometry, tirx.const(0, x.dtype))
        taps = _taps(geometry)

        def element(*index: Any) -> Any:
            return te.sum(source[tuple(geometry.places(index, [tap.var for tap in taps]))], axis=taps)

        summed = te.compute(shape, element, name="pool_sum", attrs=geometry.annotations("sum_pool"))
        share = _share(geometry, with_padding, str(x.dtype))
        return te.compute(shape, lambda *index: summed[index] * share(index), name="pool_average")

    return builder.call_te(pool, call.args[0], primfunc_name_hint=f"avg_pool{len(geometry.axes)}d")


def _share(geometry: _Geometry, with_padding: bool, dtype: str) -> Callable[[Sequence[Any]], Any]:
    """One divided by the number of elements that the window at an index counts; a window that counts none has the sum 0."""
    from tvm import tirx

    def count(axis: int, position: Any) -> Any:
        start = position * geometry.strides[axis] - geometry.before[axis]
        low = -geometry.before[axis] if with_padding else 0
        high = geometry.sizes[axis] + (geometry.after[axis] if with_padding else 0)
        step, taps = geometry.dilation[axis], geometry.window[axis]
        if isinstance(position, int):
            return sum(low <= start + tap * step < high for tap in range(taps))
        first = (tirx.max(low - start, 0) + step - 1) // step
        end = tirx.min(taps, (tirx.max(high - start, 0) + step - 1) // step)
        return tirx.max(end - first, 0)

    fixed, moving = 1, []
    for axis, positions in enumerate(geometry.positions):
        counts = {count(axis, position) for position in range(positions)}
        if len(counts) == 1:
            fixed *= counts.pop()
        else:
            moving.append(axis)

    def share(index: Sequence[Any]) -> Any:
        number: Any = fixed
        for axis in moving:
            number = count(axis, index[geometry.axes[axis]]) * number
        if isinstance(number, int):
            return tirx.const(1 / max(number, 1), dtype)
        return tirx.const(1, dtype) / tirx.Cast(dtype, tirx.max(number, 1))

    return share


def total(builder: Any, call: Any, main: Any = None) -> Any:
    """The sum over some axes, but not the last one; other sums are left to TVM."""
    return _total(builder, call, mean=False)


def mean(builder: Any, call: Any, main: Any = None) -> Any:
    """The mean over some axes, but not the last one, such as the image of a channels-last tensor; other means are left to TVM."""
    return _total(builder, call, mean=True)


def _total(builder: Any, call: Any, mean: bool) -> Any:
    from tvm import te, tirx

    source = call.args[0]
    rank, dtype = len(source.ty.shape), str(call.ty.dtype)
    if call.attrs.axis is None or not _is_float(dtype) or dtype != str(source.ty.dtype):
        return None
    axes = sorted({int(axis) % rank for axis in call.attrs.axis})
    sizes, shape, keep = _integers(source.ty.shape), _integers(call.ty.shape), bool(call.attrs.keepdims)
    number = 1
    for axis in axes:
        number *= sizes[axis]
    if number == 0:  # TVM divides by it
        empty = tirx.const(math.nan if mean else 0.0, dtype)
        return builder.call_te(lambda: te.compute(shape, lambda *index: empty, name="empty"), primfunc_name_hint="empty")
    if not axes or rank - 1 in axes:
        return None

    def summed(x: Any) -> Any:
        along = {axis: te.reduce_axis((0, sizes[axis]), name=f"k{axis}") for axis in axes}

        def element(*index: Any) -> Any:
            outer = iter(index[axis] for axis in range(rank) if axis not in along) if keep else iter(index)
            places = [along[axis].var if axis in along else next(outer) for axis in range(rank)]
            return te.sum(x[tuple(places)], axis=list(along.values()))

        sums = te.compute(shape, element, name="total", attrs={ANCHOR: "total", "effc.axes": axes})
        return te.compute(shape, lambda *index: sums[index] / tirx.const(number, dtype), name="mean") if mean else sums

    return builder.call_te(summed, source, primfunc_name_hint="mean" if mean else "sum")


def _geometry(call: Any) -> _Geometry:
    """The windows of a pooling call."""
    attrs, axes = call.attrs, _spatial(call.attrs)
    padding = _integers(attrs.padding)
    return _Geometry(
        axes=axes,
        sizes=tuple(int(call.args[0].ty.shape[axis]) for axis in axes),
        positions=tuple(int(call.ty.shape[axis]) for axis in axes),
        window=tuple(_integers(attrs.pool_size)),
        strides=tuple(_integers(attrs.strides)),
        dilation=tuple(_integers(attrs.dilation)),
        before=tuple(padding[: len(axes)]),
        after=tuple(padding[len(axes) :]),
    )


def _spatial(attrs: Any) -> tuple[int, ...]:
    """The spatial axes: 1, ... with channels last, 2, ... with channels first."""
    layout = str(attrs.layout)
    if str(attrs.out_layout) not in ("", layout) or layout not in _LAYOUTS:
        raise InternalError(f"a pool from layout {layout} to {attrs.out_layout}")
    return tuple(axis for axis, letter in enumerate(layout) if letter not in "NC")


def _padded(x: Any, geometry: _Geometry, value: Any) -> Any:
    """The input as far as windows reach, or itself where none leaves it."""
    from tvm import te, tirx

    reach = geometry.reach
    if not any(geometry.before) and all(end <= size for end, size in zip(reach, geometry.sizes, strict=True)):
        return x
    shape = _integers(x.shape)
    for axis, end in zip(geometry.axes, reach, strict=True):
        shape[axis] = end

    def element(*index: Any) -> Any:
        places, inside = list(index), []
        for axis, size, before in zip(geometry.axes, geometry.sizes, geometry.before, strict=True):
            places[axis] = index[axis] - before
            inside += [places[axis] >= 0, places[axis] < size]
        return tirx.if_then_else(tirx.all(*inside), x[tuple(places)], value)

    return te.compute(shape, element, name="padded", attrs={"effc.pad": 1})


def _taps(geometry: _Geometry) -> list[Any]:
    from tvm import te

    return [te.reduce_axis((0, size), name=f"k{axis}") for axis, size in enumerate(geometry.window)]


def _integers(values: Any) -> list[int]:
    return [int(value) for value in values]


def _is_float(dtype: Any) -> bool:
    return "float" in str(dtype)
