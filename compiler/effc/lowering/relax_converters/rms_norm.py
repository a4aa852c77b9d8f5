"""`aten.rms_norm` as relax's operator of that name, which becomes one kernel."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

__all__ = ["convert"]


def convert(node: fx.Node, importer: Any) -> Any:
    """x / sqrt(mean(x^2) + eps) * weight over the last axes; half precision is computed in float32 and rounded once."""
    from tvm import relax

    names = ("input", "normalized_shape", "weight", "eps")
    given: dict[str, Any] = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    emit = importer.block_builder.emit
    fake, axes = given["input"].meta["val"], len(given["normalized_shape"])
    dtype = str(fake.dtype).removeprefix("torch.")
    own = "float32" if dtype in ("float16", "bfloat16") else dtype

    def wide(x: Any) -> Any:
        return x if str(x.ty.dtype) == own else emit(relax.op.astype(x, own))

    weight = given.get("weight")
    if weight is None:
        scale = emit(relax.op.ones([int(size) for size in given["normalized_shape"]], own))
    else:
        scale = wide(importer.env[weight])
    epsilon = given.get("eps")
    if epsilon is None:
        epsilon = torch.finfo(torch.float32 if own == "float32" else fake.dtype).eps
    x = wide(importer.env[given["input"]])
    return emit(relax.op.nn.rms_norm(x, scale, list(range(-axes, 0)), float(epsilon)))
