"""`aten.div.Tensor_mode`: TVM's importer types its constants wrongly and has no division that truncates."""

from __future__ import annotations

from typing import Any

from torch import fx

from effc.lowering.integer_division import divide

__all__ = ["convert"]


def convert(node: fx.Node, importer: Any) -> Any:
    """Division with `rounding_mode` None, `trunc` or `floor`, computed in the result's dtype."""
    from tvm import relax, te, tirx

    dtype = str(node.meta["val"].dtype).removeprefix("torch.")
    mode = node.kwargs.get("rounding_mode")
    emit, builder = importer.block_builder.emit, importer.block_builder

    def operand(argument: Any) -> Any:
        if not isinstance(argument, fx.Node):
            return relax.const(argument, dtype)
        value = importer.env[argument]
        return value if argument.meta["val"].dtype == node.meta["val"].dtype else emit(relax.op.astype(value, dtype))

    a, b = (operand(argument) for argument in node.args[:2])
    if mode is None:
        return emit(relax.op.divide(a, b))
    if mode == "floor":
        return emit(relax.op.floor_divide(a, b))
    if node.meta["val"].dtype.is_floating_point:
        return emit(relax.op.trunc(emit(relax.op.divide(a, b))))
    shape = [int(size) for size in node.meta["val"].shape]
    a, b = (emit(relax.op.broadcast_to(one, shape)) for one in (a, b))

    def truncated(x: Any, y: Any) -> Any:
        return te.compute(shape, lambda *i: divide(tirx.Cast(dtype, x[i]), tirx.Cast(dtype, y[i]), tirx.truncdiv), name="truncdiv")

    return builder.emit_te(truncated, a, b, primfunc_name_hint="truncdiv")
