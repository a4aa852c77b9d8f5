"""What code without TVM's runtime cannot hold, of a program that does not plan: found all at once, so nobody mends it one run at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from effc.errors import Problem, UnsupportedModelError
from effc.lowering.c99.functions import c_functions
from effc.lowering.chip import tvm_target
from effc.lowering.drafts import NotPlannableError
from effc.lowering.emit import kernels
from effc.lowering.implementing import implemented
from effc.lowering.kernels import Options
from effc.lowering.missing_functions import missing_functions
from effc.lowering.narrowing import with_narrow_borders
from effc.lowering.parameters import ParameterSource
from effc.targets import C99, Target

__all__ = ["refusal"]


def refusal(
    error: NotPlannableError, target: Target, tensors: dict[str, np.ndarray[Any, Any]], origin: dict[str, ParameterSource]
) -> UnsupportedModelError:
    """The error of a program that would need TVM's runtime: what does not plan, and what of the rest has no form in C, or does not link.

    Args:
        error: from the drafting.
        target: one without TVM's virtual machine.
        tensors, origin: stored tensors and their sources by name; those that lowering makes are added.
    """
    form, problems = ("code of their own", error.problems)
    if target.family == C99:
        form = "C"
    if target.family == C99 or not target.hosted:
        problems = (*problems, *_formless(error, target, tensors, origin))
    why = f"target {target.name}: parts of the program cannot become {form}, where there is no runtime of TVM"
    return UnsupportedModelError(why, problems)


def _formless(
    error: NotPlannableError, target: Target, tensors: dict[str, np.ndarray[Any, Any]], origin: dict[str, ParameterSource]
) -> tuple[Problem, ...]:
    import tvm

    tensors |= error.rest.constants
    origin |= {name: ParameterSource("", "transformed") for name in error.rest.constants}
    try:
        drafted = with_narrow_borders(error.rest) if target.family == C99 else error.rest
        implementations = implemented(drafted, target, Options(), tensors, origin)
        compiled = kernels({symbol: one.function for symbol, one in implementations.items()})
        if target.family != C99:
            return missing_functions(compiled, drafted, tvm_target(target), target)
        c_functions(compiled, drafted)
    except UnsupportedModelError as formless:
        return formless.problems
    except tvm.error.InternalError:  # a kernel beside stand-ins that does not compile is no news: the program is refused as it is
        pass
    return ()
