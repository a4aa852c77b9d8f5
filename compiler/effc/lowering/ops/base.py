"""The form in which an effc op's TVM meaning is registered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import fx

from effc.ir import OpDef

__all__ = ["OpKernel"]


@dataclass(frozen=True)
class OpKernel:
    """How TVM computes an effc op.

    Attributes:
        op: the op's definition.
        convert: `(node, importer) -> relax.Var`; reads operands from `importer.env`, emits through `importer.block_builder`.
    """

    op: OpDef
    convert: Callable[[fx.Node, Any], Any]

    @property
    def key(self) -> str:
        """What TVM's importer looks the op up by: its name without the namespace."""
        return f"{self.op.name}.default"
