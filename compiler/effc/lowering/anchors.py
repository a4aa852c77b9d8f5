"""The operators that kernels are built around, as TIR that says what it is: convolutions, matrix products, pools.

Each becomes a function of blocks whose main one carries its sizes as annotations (`effc.anchor`, `effc.strides`, ...). After fusion the
rules in `kernels` read them there and write the loops themselves; blocks that no rule takes are scheduled as they stand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from effc.lowering.anchors_attention import attention
from effc.lowering.anchors_attention import permuted as permuted_attention
from effc.lowering.anchors_integer import first, integer_convolution, integer_matmul, rounding, saturation, with_own_number
from effc.lowering.anchors_pool import adaptive_average_pool, average_pool, max_pool, mean, total
from effc.lowering.anchors_rows import layer_norm, log_softmax, rms_norm, softmax
from effc.lowering.anchors_slice import strided_slice
from effc.lowering.kernels.fused import ANCHOR
from effc.lowering.relax_edit import Main, operator_name

__all__ = ["ANCHORS", "anchored"]


def anchored(builder: Any) -> Callable[[Any, Main], Any]:
    """A rewrite that turns calls into calls of annotated functions; `builder` is a relax block builder."""

    def rewrite(call: Any, main: Main) -> Any:
        make = ANCHORS.get(str(getattr(call.op, "name", "")))
        return make(builder, call, main) if make is not None else None

    return rewrite


def _integers(values: Any) -> list[int]:
    return [int(value) for value in values]


def _convolution(builder: Any, call: Any, main: Main) -> Any:
    """A convolution in channels-last layout; others are left to TVM."""
    from tvm import te, tirx

    attrs = call.attrs
    axes = len(call.ty.shape) - 2
    if str(attrs.data_layout) != {1: "NWC", 2: "NHWC", 3: "NDHWC"}[axes] or str(call.ty.dtype) != str(call.args[0].ty.dtype):
        return None
    if str(attrs.out_layout) not in ("", str(attrs.data_layout)):
        return None
    strides, dilation, groups = _integers(attrs.strides), _integers(attrs.dilation), int(attrs.groups)
    padding = _integers(attrs.padding)
    before, after = padding[:axes], padding[axes:]
    shape = _integers(call.ty.shape)

    def convolution(x: Any, w: Any) -> Any:
        sizes = _integers(x.shape)
        window, channels = _integers(w.shape)[1:-1], int(w.shape[-1])
        source = x
        if any(padding):
            padded = [size + a + b for size, a, b in zip(sizes[1:-1], before, after, strict=True)]

            def pad(*index: Any) -> Any:
                places = [place - a for place, a in zip(index[1:-1], before, strict=True)]
                inside = [test for place, size in zip(places, sizes[1:-1], strict=True) for test in (place >= 0, place < size)]
                return tirx.if_then_else(tirx.all(*inside), x[(index[0], *places, index[-1])], tirx.const(0, x.dtype))

            source = te.compute([sizes[0], *padded, sizes[-1]], pad, name="padded", attrs={"effc.pad": 1})
        taps = [te.reduce_axis((0, size), name=f"k{axis}") for axis, size in enumerate(window)]
        depth = te.reduce_axis((0, channels), name="c")
        features = shape[-1] // groups

        def element(*index: Any) -> Any:
            places = [
                place * stride + tap.var * step for place, stride, tap, step in zip(index[1:-1], strides, taps, dilation, strict=True)
            ]
            channel = depth.var if groups == 1 else tirx.floordiv(index[-1], features) * channels + depth.var
            return te.sum(source[(index[0], *places, channel)] * w[(index[-1], *(tap.var for tap in taps), depth.var)], axis=[*taps, depth])

        annotations = {
            ANCHOR: "convolution",
            "effc.strides": strides,
            "effc.dilation": dilation,
            "effc.before": before,
            "effc.groups": groups,
        }
        return te.compute(shape, element, name="convolution", attrs=annotations)

    return builder.call_te(convolution, *call.args[:2], primfunc_name_hint=f"conv{axes}d")


def _matmul(builder: Any, call: Any, main: Main) -> Any:
    """A matrix product, batched or not, of two operands with at least two axes; vectors are left to TVM."""
    from tvm import te

    a, b = call.args[0], _half_weights(call, main)
    shape = _integers(call.ty.shape)
    dtype = str(call.ty.dtype)
    if len(a.ty.shape) < 2 or len(b.ty.shape) < 2 or str(a.ty.dtype) != dtype:
        return None
    if b is call.args[1] and str(b.ty.dtype) != dtype:
        return None

    def matmul(a: Any, b: Any) -> Any:
        depth = te.reduce_axis((0, int(a.shape[-1])), name="k")

        def element(*index: Any) -> Any:
            left = _broadcast(a.shape[:-2], index[:-2])
            right = _broadcast(b.shape[:-2], index[:-2])
            weight = b[(*right, depth.var, index[-1])]
            return te.sum(a[(*left, index[-2], depth.var)] * (weight if str(b.dtype) == dtype else weight.astype(dtype)), axis=depth)

        return te.compute(shape, element, name="matmul", attrs={ANCHOR: "matmul"})

    return builder.call_te(matmul, a, b, primfunc_name_hint="matmul")


def _half_weights(call: Any, main: Main) -> Any:
    """The stored matrix of half precision that a product's right operand is in float32; the operand itself where it is none."""
    given = call.args[1]
    made = main.bound.get(given)
    if made is None or operator_name(made) != "relax.astype" or str(call.ty.dtype) != "float32":
        return given
    source = made.args[0]
    half = source in main.parameters and str(source.ty.dtype) in ("float16", "bfloat16") and len(source.ty.shape) == 2
    return source if half else given


def _broadcast(sizes: Sequence[Any], index: Sequence[Any]) -> list[Any]:
    """The place in a tensor's own batch axes."""
    own = index[len(index) - len(sizes) :]
    return [0 if int(size) == 1 else place for size, place in zip(sizes, own, strict=True)]


ANCHORS: dict[str, Callable[[Any, Any, Main], Any]] = {
    "relax.add": with_own_number,
    "relax.astype": rounding,
    "relax.matmul": first(integer_matmul, _matmul),
    "relax.mean": mean,
    "relax.nn.adaptive_avg_pool1d": adaptive_average_pool,
    "relax.nn.adaptive_avg_pool2d": adaptive_average_pool,
    "relax.nn.adaptive_avg_pool3d": adaptive_average_pool,
    "relax.nn.attention": attention,
    "relax.nn.attention_bias": attention,
    "relax.nn.avg_pool1d": average_pool,
    "relax.nn.avg_pool2d": average_pool,
    "relax.nn.avg_pool3d": average_pool,
    "relax.nn.conv1d": first(integer_convolution, _convolution),
    "relax.nn.conv2d": first(integer_convolution, _convolution),
    "relax.nn.conv3d": first(integer_convolution, _convolution),
    "relax.nn.layer_norm": layer_norm,
    "relax.nn.log_softmax": log_softmax,
    "relax.nn.max_pool1d": max_pool,
    "relax.nn.max_pool2d": max_pool,
    "relax.nn.max_pool3d": max_pool,
    "relax.nn.rms_norm": rms_norm,
    "relax.nn.softmax": softmax,
    "relax.permute_dims": permuted_attention,
    "relax.strided_slice": strided_slice,
    "relax.subtract": with_own_number,
    "relax.sum": total,
    "relax.where": saturation,
}
