"""Kernels of NVIDIA's GPUs, one file per operator family; the table is `CUDA_RULES`.

They mean what the kernels of CPUs mean and are read from the same fused functions. What no rule takes is scheduled by
`schedules`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from effc.lowering.kernels.cuda import masked, rows, skipping
from effc.lowering.kernels.fused import Fused
from effc.lowering.kernels.implementation import Implementation
from effc.targets import Target

__all__ = ["CUDA_RULES"]

CUDA_RULES: tuple[Callable[[Fused, Sequence[bool], Target], Implementation | None], ...] = (
    masked.product,
    skipping.product,
    skipping.few_rows,
    rows.rows,
)
