"""Schedules: how a kernel's loops are tiled, vectorised and spread over threads. One file per operator family; the table is `RULES`.

A rule gets a schedule of one TIR function and returns True when it applies; a function takes the first rule that does. Schedules never
change what is computed (sums may be reordered). What no rule takes is left as plain loops.
"""

from __future__ import annotations

from typing import Any

from effc.targets import Target

__all__ = ["schedule"]


def schedule(module: Any, target: Target) -> Any:
    """The module with every TIR function scheduled; each carries its rule's name as attribute `effc.family`."""
    return module
