"""What a node costs: multiply-accumulates and bytes, counted from shapes."""

from __future__ import annotations

from effc.cost.count import Cost, node_cost, program_cost

__all__ = ["Cost", "node_cost", "program_cost"]
