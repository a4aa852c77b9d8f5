"""Slices as functions that nothing takes for elementwise.

A slice from the beginning reads x[i, j] for its element [i, j], and relax would fuse it behind a product like an activation: the kernel
of the product would then store elements that have no place. So it says itself what it is.
"""

from __future__ import annotations

from typing import Any

from effc.lowering.moves import sliced
from effc.lowering.relax_edit import Main

__all__ = ["strided_slice"]

_INJECTIVE = 2  # relax's pattern of functions that move elements


def strided_slice(builder: Any, call: Any, main: Main) -> Any:
    """A slice with known positive steps; others are left to TVM."""
    from tvm import te

    shape, sizes = [int(size) for size in call.ty.shape], [int(size) for size in call.args[0].ty.shape]
    place = sliced(call, sizes, shape)
    if place is None:
        return None

    def made(x: Any) -> Any:
        return te.compute(shape, lambda *index: x[tuple(place(list(index)))], name="slice")

    result = builder.call_te(made, call.args[0], primfunc_name_hint="strided_slice")
    builder.update_func(result.args[0], builder.get()[result.args[0]].with_attr("op_pattern", _INJECTIVE))
    return result
