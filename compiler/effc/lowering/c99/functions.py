"""The kernels of a plan as C functions."""

from __future__ import annotations

from collections.abc import Mapping

from effc.errors import InternalError, Problem, UnsupportedModelError
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
        UnsupportedModelError: kernels hold what C99 has no form for, such as half precision; all of them are listed.
    """
    import tvm
    from tvm import tirx

    target = tvm.target.Target("c")
    passes = tvm.transform.Sequential([tirx.transform.BindTarget(target), tirx.transform.LowerIntrin()])
    symbols = dict.fromkeys(step.kernel for step in (*plan.steps, *plan.fresh))
    lowered = passes(tvm.IRModule({symbol: compiled[symbol].function for symbol in symbols}))
    printed: list[Printed] = []
    problems: list[Problem] = []
    for symbol in symbols:
        try:
            printed.append(c_function(lowered[symbol], symbol))
        except InternalError as error:
            step = next(step for step in (*plan.steps, *plan.fresh) if step.kernel == symbol)
            problems.append(Problem(", ".join(step.sources) or symbol, " + ".join(step.ops), error.message))
    if problems:
        raise UnsupportedModelError("parts of the program have no form in C99", problems)
    return tuple(printed)
