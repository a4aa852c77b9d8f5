"""`where` as a choice of two values: TVM's own is a branch, which no vector has.

Both tensors are computed anyway, so both elements may be read: no guard is lost. A number that is chosen stands in the expression itself:
kernels can see that it is zero, and it is no stored tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from effc.lowering.broadcasting import element

__all__ = ["CHOICES"]


def _where(builder: Any, call: Any) -> Any:
    from tvm import te, tirx

    shape = [int(size) for size in call.ty.shape]
    numbers = [_number(operand) for operand in call.args]

    def where(*tensors: Any) -> Any:
        left = iter(tensors)
        operands = [next(left) if number is None else number for number in numbers]

        def chosen(*index: Any) -> Any:
            return tirx.Select(*(element(operand, index, shape) for operand in operands))

        return te.compute(shape, chosen, name="where")

    tensors = [operand for operand, number in zip(call.args, numbers, strict=True) if number is None]
    return builder.call_te(where, *tensors, primfunc_name_hint="where")


def _number(operand: Any) -> Any:
    """A constant without axes as a number; None for anything else."""
    import tvm
    from tvm import tirx

    dtype = str(operand.ty.dtype)
    if not isinstance(operand, tvm.ir.GenericConst) or tuple(operand.ty.shape) or dtype not in ("float32", "float64"):
        return None
    return tirx.const(float(operand.value.numpy()), dtype)


# Relax operators whose TIR function effc writes itself.
CHOICES: dict[str, Callable[[Any, Any], Any]] = {"relax.where": _where}
