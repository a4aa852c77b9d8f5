"""What a rule makes of a fused function: code, and how its stored operands must be laid out for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from effc.lowering.kernels.packing import Packing

__all__ = ["Implementation"]


@dataclass(frozen=True)
class Implementation:
    """A kernel.

    Attributes:
        function: over the same arguments as the fused function, but for those that are packed.
        family: the rule's family, for reports.
        packings: layout of stored operands, by position among the arguments.
        depends_on_values: whether other values of the stored arguments might have led to another kernel.
        layer: the key of the layer's measured tile (`tiles.Choice`); empty where there is nothing to choose.
        note: what a reader of the report should know of the choice, such as the measured error of a fast algorithm.
    """

    function: Any
    family: str
    packings: Mapping[int, Packing] = field(default_factory=lambda: MappingProxyType({}))
    note: str = ""
    layer: str = ""
    depends_on_values: bool = False
