"""`where` as a choice of two values: TVM's own is a branch, which no vector has.

Both tensors are computed anyway, so both elements may be read: no guard is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from effc.lowering.broadcasting import element

__all__ = ["CHOICES"]


def _where(builder: Any, call: Any) -> Any:
    from tvm import te, tirx

    shape = [int(size) for size in call.ty.shape]

    def where(condition: Any, first: Any, second: Any) -> Any:
        def chosen(*index: Any) -> Any:
            return tirx.Select(*(element(operand, index, shape) for operand in (condition, first, second)))

        return te.compute(shape, chosen, name="where")

    return builder.call_te(where, *call.args, primfunc_name_hint="where")


# Relax operators whose TIR function effc writes itself.
CHOICES: dict[str, Callable[[Any, Any], Any]] = {"relax.where": _where}
