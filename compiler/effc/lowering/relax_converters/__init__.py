"""ATen operators that TVM 0.27's importer lacks or gets wrong: the table of effc's own converters.

Keys are what the importer looks up (`scatter_add.default`); values are `(node, importer) -> relax.Var`, as for effc ops.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from effc.lowering.relax_converters import division, select

__all__ = ["CONVERTERS"]

CONVERTERS: dict[str, Callable[[fx.Node, Any], Any]] = {
    "div.Tensor_mode": division.convert,
    "select.int": select.convert,
}
