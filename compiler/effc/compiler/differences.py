"""Results of code that are not its program's, as an error."""

from __future__ import annotations

from effc.errors import Problem, VerificationError
from effc.runtime import Verification

__all__ = ["refuse_differences"]


def refuse_differences(found: Verification, what: str) -> None:
    """Raises VerificationError with `what` and every output that is further off than accepted."""
    wrong = [one for one in found.differences if not one.within(found.tolerance)]
    if wrong:
        raise VerificationError(
            what, [Problem(f"output {one.name}", f"{one.relative:.3g} at {one.index}", one.reason or "is too far off") for one in wrong]
        )
