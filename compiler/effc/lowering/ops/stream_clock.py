"""TVM meaning of `effc::stream_clock`: comparisons, a count of the pixels that are still, a selection."""

from __future__ import annotations

import math
from typing import Any

from torch import fx

from effc.ir.ops.stream_clock import LAST, STREAM_CLOCK, most_moved
from effc.lowering.ops.base import OpKernel
from effc.lowering.ops.truncate import near, still_pixels

__all__ = ["KERNEL"]


def _convert(node: fx.Node, importer: Any) -> Any:
    from tvm import relax

    x, previous, clock = (importer.env[argument] for argument in node.args[:3])
    threshold, scene_cut, refresh = (float(argument) for argument in node.args[3:6])  # type: ignore[arg-type]
    emit, op = importer.block_builder.emit, relax.op

    def number(value: int) -> Any:
        return relax.const(value, "int32")

    same = _same_bits(importer, x, previous) if threshold == 0 else near(importer, x, previous, threshold)
    still = emit(op.sum(still_pixels(importer, same), axis=list(range(1, x.ty.ndim)), keepdims=False))
    pixels = math.prod(int(size) for size in list(x.ty.shape)[2:])
    least = pixels - min(most_moved(scene_cut, pixels), pixels)
    whole = emit(op.logical_or(emit(op.equal(clock, number(0))), emit(op.less(still, number(least)))))
    if refresh:
        whole = emit(op.logical_or(whole, emit(op.greater_equal(clock, number(int(refresh))))))
    later = emit(op.add(emit(op.minimum(clock, number(LAST - 1))), number(1)))
    return emit(op.where(whole, number(1), later))


def _same_bits(importer: Any, x: Any, previous: Any) -> Any:
    """Where all bits are the same: those of zeros with other signs are not, those of one NaN are."""
    from tvm import te, tirx

    def compared(x: Any, previous: Any) -> Any:
        kind = f"int{8 * _WIDTHS[str(x.dtype)]}"

        def same(*index: Any) -> Any:
            return tirx.EQ(tirx.reinterpret(kind, x(*index)), tirx.reinterpret(kind, previous(*index)))

        return te.compute(x.shape, same, name="same_bits")

    builder = importer.block_builder
    return builder.emit(builder.call_te(compared, x, previous, primfunc_name_hint="same_bits"))


_WIDTHS = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}

KERNEL = OpKernel(op=STREAM_CLOCK, convert=_convert)
