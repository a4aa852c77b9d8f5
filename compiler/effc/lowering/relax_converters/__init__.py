"""ATen operators that TVM 0.27's importer lacks or gets wrong: the table of effc's own converters.

Keys are what the importer looks up (`scatter_add.default`); values are `(node, importer) -> relax.Var`, as for effc ops.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from effc.lowering.relax_converters import (
    attention,
    division,
    extremum,
    full,
    grid_sample,
    index,
    interpolate,
    power,
    products,
    rectifiers,
    rms_norm,
    select,
    shift,
    sort,
    split,
)

__all__ = ["CONVERTERS"]

CONVERTERS: dict[str, Callable[[fx.Node, Any], Any]] = {
    "__lshift__.Scalar": shift.left,
    "__lshift__.Tensor": shift.left,
    "__rshift__.Scalar": shift.right,
    "__rshift__.Tensor": shift.right,
    "amax.default": extremum.amax,
    "amin.default": extremum.amin,
    "bmm.default": products.matrix,
    "convolution.default": products.convolution,
    **interpolate.CONVERTERS,
    "div.Tensor_mode": division.convert,
    "elu.default": rectifiers.elu,
    "full.default": full.convert,
    "grid_sampler_2d.default": grid_sample.convert,
    "index.Tensor": index.convert,
    "matmul.default": products.matrix,
    "mm.default": products.matrix,
    "mv.default": products.vector,
    "pow.Tensor_Scalar": power.scalar,
    "pow.Tensor_Tensor": power.tensor,
    "prod.dim_int": extremum.product,
    "rms_norm.default": rms_norm.convert,
    "scaled_dot_product_attention.default": attention.convert,
    "select.int": select.convert,
    "split_with_sizes.default": split.convert,
    "sort.stable": sort.convert,
}
