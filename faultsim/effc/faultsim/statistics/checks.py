"""What every interval asks of its input."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from effc.errors import DataError, Problem
from effc.faultsim.statistics.bounds import Floats

__all__ = ["check_level", "check_values"]


def check_level(level: float) -> None:
    """Raises DataError unless 0 < level < 1."""
    if not 0 < level < 1:
        raise DataError(f"level is {level:g}: it must lie between 0 and 1, both excluded; write 0.95 for 95 %")


def check_values(strata: Sequence[Floats], sizes: Sequence[int | None]) -> None:
    """Raises DataError that lists every stratum without values, with one outside [0, 1], or with more of them than there are faults."""
    problems = []
    for number, (values, size) in enumerate(zip(strata, sizes, strict=True)):
        where = "values" if len(strata) == 1 else f"stratum {number}"
        values = np.asarray(values)
        if values.ndim != 1 or not len(values):
            problems.append(Problem(where, f"shape {values.shape}", "at least one injection is needed, one value each", "draw some"))
            continue
        wrong = int((~((values >= 0) & (values <= 1))).sum())
        if wrong:
            problems.append(Problem(where, f"{wrong} of {len(values)} values", "they are not in [0, 1]", "give shares, not counts"))
        if size is not None and len(values) > size:
            problems.append(Problem(where, f"{len(values)} injections", f"there are only {size} different ones"))
    if problems:
        raise DataError("the values of the injections do not fit", problems)
