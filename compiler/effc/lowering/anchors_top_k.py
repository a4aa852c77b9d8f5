"""Top-k along the last axis, by order or by statistics, as blocks that say what is done with a row: see `kernels.rows`."""

from __future__ import annotations

from typing import Any

from effc.lowering.anchors_rows import OPAQUE, Row, called
from effc.lowering.kernels.rows import ROW, K

__all__ = ["keep_top_k", "statistical_top_k"]


def keep_top_k(builder: Any, x: Any, k: int) -> Any:
    """The k largest of each row, zeros elsewhere: `effc::keep_top_k`."""

    def made(row: Row, x: Any) -> Any:
        from tvm import te, tirx

        infinite, zero = tirx.infinity(x.dtype), tirx.const(0, x.dtype)
        own = row.each("own", lambda *i: x[i], "keep")
        other, place = te.reduce_axis((0, row.length), name="other"), te.reduce_axis((0, row.length), name="place")
        one, none = tirx.const(1, "int32"), tirx.const(0, "int32")

        def rank(*i: Any) -> Any:
            return te.sum(tirx.Select(own[(*i[:-1], other.var)] > own[i], one, none), axis=other)

        larger = row.each("larger", rank)

        def smallest(*i: Any) -> Any:
            at = (*i, place.var)
            kept = tirx.all(larger[at] < k, own[at] == own[at])
            return te.min(tirx.Select(kept, own[at], infinite), axis=place)

        # What these two blocks say takes length^2 comparisons. A kernel that knows the annotation finds the same number in 32 passes.
        threshold = te.compute(row.shape[:-1], smallest, name="kth", attrs={ROW: "kth", K: k})
        return row.result(lambda *i: tirx.Select(own[i] < threshold[i[:-1]], zero, own[i]))

    return _emitted(builder, x, "keep_top_k", made)


def statistical_top_k(builder: Any, x: Any, deviations: float, form: str) -> Any:
    """What lies over a row's mean by `deviations` standard deviations: `effc::statistical_top_k`."""

    def made(row: Row, x: Any) -> Any:
        from tvm import tirx

        share, zero = tirx.const(1.0 / row.length, x.dtype), tirx.const(0, x.dtype)
        own = row.each("own", lambda *i: x[i], "keep")
        total = row.reduced("sum", own, "total")
        mean = row.once("mean", lambda *i: total[i] * share)
        square = row.each("square", lambda *i: (own[i] - mean[i[:-1]]) * (own[i] - mean[i[:-1]]))
        spread = row.reduced("sum", square, "spread")
        theta = row.once("theta", lambda *i: mean[i] + tirx.const(deviations, x.dtype) * tirx.sqrt(spread[i] * share))

        def element(*i: Any) -> Any:
            if form == "soft":
                over = own[i] - theta[i[:-1]]
                return tirx.Select(over < zero, zero, over)
            rest = zero if form == "hard" else -tirx.infinity(x.dtype)
            return tirx.Select(own[i] <= theta[i[:-1]], rest, own[i])

        return row.result(element)

    return _emitted(builder, x, "statistical_top_k", made)


def _emitted(builder: Any, x: Any, name: str, made: Any) -> Any:
    """The variable that holds the function's result for x."""
    from tvm import relax

    shape = [int(size) for size in x.ty.shape]
    rows = shape if len(shape) > 1 else [1, *shape]
    source = x if rows == shape else builder.emit(relax.op.reshape(x, rows))
    # What multiplies the result of a product belongs to that product, which can leave out what is multiplied by zero.
    result = builder.emit(called(builder, [source], name, rows, made, pattern=OPAQUE))
    return result if rows == shape else builder.emit(relax.op.reshape(result, shape))
