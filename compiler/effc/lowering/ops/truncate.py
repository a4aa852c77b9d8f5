"""TVM meaning of `effc::truncate` on a whole tensor: where nothing is known about what moved.

It asks which pixels are still, not which moved: TVM makes `a > b` of `not (a <= b)`, and NaN would not move.
"""

from __future__ import annotations

from typing import Any

from torch import fx

from effc.ir.ops.truncate import TRUNCATE
from effc.lowering.ops.base import OpKernel

__all__ = ["KERNEL", "near", "still_pixels"]


def near(importer: Any, x: Any, previous: Any, threshold: float) -> Any:
    """Which pixels of x are within the threshold of `previous`: bool (N, 1, *spatial); false for NaN."""
    from tvm import relax

    emit, op = importer.block_builder.emit, relax.op
    wide = "float64" if str(x.ty.dtype) == "float64" else "float32"
    far = emit(op.astype(emit(op.subtract(x, previous)), wide))
    total = emit(op.sum(emit(op.multiply(far, far)), axis=[1], keepdims=True))
    return emit(op.less_equal(total, relax.const(threshold * threshold * int(x.ty.shape[1]), wide)))


def still_pixels(importer: Any, same: Any) -> Any:
    """int32 (N, 1, *spatial): 1 at pixels whose channels are all the `same`, else 0."""
    from tvm import relax

    emit, op = importer.block_builder.emit, relax.op
    return emit(op.min(emit(op.astype(same, "int32")), axis=[1], keepdims=True))


def _convert(node: fx.Node, importer: Any) -> Any:
    from tvm import relax

    x, previous, clock = (importer.env[argument] for argument in node.args[:3])
    threshold = float(node.args[3])  # type: ignore[arg-type]
    if threshold == 0:
        return x
    emit, op, one = importer.block_builder.emit, relax.op, relax.const(1, "int32")
    still = still_pixels(importer, near(importer, x, previous, threshold))
    age = emit(op.reshape(clock, [int(x.ty.shape[0]), *[1] * (x.ty.ndim - 1)]))
    kept = emit(op.logical_and(emit(op.equal(still, one)), emit(op.not_equal(age, one))))
    return emit(op.where(kept, previous, x))


KERNEL = OpKernel(op=TRUNCATE, convert=_convert)
