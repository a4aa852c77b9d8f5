"""`aten.grid_sampler_2d`, whose grid TVM's importer hands over in torch's layout where TVM expects its own.

Refused is what TVM computes otherwise: the nearest mode (TVM rounds halves away from zero, torch and ONNX to the even neighbour).
"""

from __future__ import annotations

from typing import Any

from torch import fx

__all__ = ["convert"]

_MODES = {0: "bilinear", 2: "bicubic"}
_PADDINGS = {0: "zeros", 1: "border", 2: "reflection"}


def convert(node: fx.Node, importer: Any) -> Any:
    """The grid (N, H, W, 2) becomes (N, 2, H, W). Raises ValueError for the nearest mode."""
    from tvm import relax

    given: Any = node.args
    data, grid, mode, padding, align = given
    if mode not in _MODES:
        raise ValueError("nearest sampling rounds halves otherwise in TVM than in torch; use bilinear")
    emit = importer.block_builder.emit
    moved = emit(relax.op.permute_dims(importer.env[grid], [0, 3, 1, 2]))
    return emit(
        relax.op.image.grid_sample(
            importer.env[data], moved, method=_MODES[mode], layout="NCHW", padding_mode=_PADDINGS[padding], align_corners=bool(align)
        )
    )
