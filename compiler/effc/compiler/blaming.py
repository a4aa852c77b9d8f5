"""Whose code may be wrong where a package's code computes steps of the plan beside effc's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from effc.errors import ForeignCodeError, Problem, VerificationError
from effc.lowering.extensions import origin_of
from effc.runtime.plan import Plan
from effc.targets import Target

__all__ = ["blaming", "foreign_steps"]


def foreign_steps(plan: Plan | None, extension: str) -> dict[int, str]:
    """The steps that an extension computes: their numbers as `effc inspect` counts them, and what they are.

    Args:
        plan: None for code that runs on TVM's virtual machine, which calls no extension.
        extension: its name, which is the family of its steps; empty for a target of effc's own.
    """
    if plan is None or not extension:
        return {}
    return {index: step.described for index, step in enumerate(plan.steps) if step.family == extension}


@contextmanager
def blaming(target: Target, plan: Plan | None) -> Iterator[None]:
    """While code is tried: a difference is not called effc's where an extension computes some of the steps; its package and they are named.

    Which of the two is at fault cannot be told from the outputs. A compile for a target of effc's own can tell, and the message says so.

    Raises:
        ForeignCodeError: in the place of a VerificationError.
    """
    steps = foreign_steps(plan, "" if target.origin is None else target.origin.extension)
    try:
        yield
    except ForeignCodeError as error:
        raise ForeignCodeError(f"{origin_of(target)}: {error.message}; --target cpu compiles without it", error.problems) from error
    except VerificationError as error:
        if not steps or target.origin is None:
            raise
        advice = f"--target cpu compiles without it: where that passes, the code of {target.origin.package} is wrong"
        own = [Problem(f"step {index}", what, "is computed by its code") for index, what in steps.items()]
        raise ForeignCodeError(f"{origin_of(target)}: {error.message}; {advice}", (*error.problems, *own)) from error
