"""`aten.grid_sampler_2d` without its nearest mode: TVM rounds halves away from zero there, torch and ONNX to the even neighbour."""

from __future__ import annotations

from typing import Any

from torch import fx

__all__ = ["convert"]


def convert(node: fx.Node, importer: Any) -> Any:
    """TVM's own conversion. Raises ValueError for nearest, whose results would differ."""
    if node.args[2] == 1:
        raise ValueError("nearest sampling rounds halves otherwise in TVM than in torch; use bilinear")
    return importer._grid_sampler_2d(node)
