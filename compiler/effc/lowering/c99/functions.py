"""The kernels of a plan as C functions."""

from __future__ import annotations

from collections.abc import Mapping

from effc.lowering.c99.printer import Printed, c_function
from effc.lowering.emit import Kernel
from effc.runtime.plan import Plan

__all__ = ["c_functions"]


def c_functions(compiled: Mapping[str, Kernel], plan: Plan) -> tuple[Printed, ...]:
    """Those that the plan calls, in the order of their first call.

    Args:
        compiled: kernels by symbol, of `effc.lowering.emit.kernels`.
        plan: whose steps call them.

    Raises:
        InternalError: a kernel holds something that C99 has no form for.
    """
    import tvm
    from tvm import tirx

    target = tvm.target.Target("c")
    passes = tvm.transform.Sequential([tirx.transform.BindTarget(target), tirx.transform.LowerIntrin()])
    symbols = dict.fromkeys(step.kernel for step in (*plan.steps, *plan.fresh))
    lowered = passes(tvm.IRModule({symbol: compiled[symbol].function for symbol in symbols}))
    return tuple(c_function(lowered[symbol], symbol) for symbol in symbols)
