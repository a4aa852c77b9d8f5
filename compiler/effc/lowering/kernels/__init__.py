"""Kernels: the code of a fused function. One file per operator family; the tables are `WRITTEN`, `COMPACT` and `SCHEDULED`.

A function that has an anchor (a convolution, a product: see `fused`) is offered to the rules of `WRITTEN`, for family `c99` to those of
`COMPACT`, which write its loops. What they leave is scheduled as it stands by the first rule of `SCHEDULED` that applies. Neither changes
what is computed, but sums may be reordered. A target of another package may bring rules that are asked first (`effc.lowering.extensions`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from effc.lowering.extensions import rules_of
from effc.lowering.kernels import (
    attention,
    compact_conv,
    compact_matmul,
    compact_pool,
    conv,
    depthwise,
    elementwise,
    generic,
    integer_conv,
    integer_depthwise,
    integer_matmul,
    masked,
    matmul,
    pool,
    rows,
    skipping,
    streaming,
    totals,
    winograd,
)
from effc.lowering.kernels.cuda import CUDA_RULES
from effc.lowering.kernels.cuda.schedules import ALONE
from effc.lowering.kernels.cuda.schedules import scheduled as cuda_scheduled
from effc.lowering.kernels.fused import Fused
from effc.lowering.kernels.implementation import Implementation
from effc.lowering.kernels.inlining import NotInlinableError
from effc.lowering.kernels.options import Known, Options
from effc.lowering.kernels.tiles import Choice
from effc.targets import C99, CUDA, Target

__all__ = ["COMPACT", "RULES", "SCHEDULED", "WRITTEN", "Implementation", "Known", "Options", "implement", "tunable"]

Array = np.ndarray[Any, Any]

# Rules that write the code: (the function, which arguments are stored tensors, the target) -> the kernel, or None.
WRITTEN: tuple[Callable[[Fused, Sequence[bool], Target], Implementation | None], ...] = (
    depthwise.depthwise,
    winograd.convolution,
    conv.direct,
    masked.product,
    skipping.product,
    streaming.product,
    matmul.product,
    pool.pool,
    totals.total,
    attention.attention,
    rows.rows,
    integer_depthwise.depthwise,
    integer_conv.convolution,
    integer_matmul.product,
)

# The rules of targets that count bytes of code (family `c99`): one piece of rolled loops for each function, no vectors, no copies.
COMPACT: tuple[Callable[[Fused, Sequence[bool], Target], Implementation | None], ...] = (
    compact_conv.depthwise,
    compact_conv.convolution,
    compact_matmul.product,
    compact_pool.pool,
    attention.attention,
    rows.rows,
)

# The rules of each family of targets that does not take `WRITTEN`.
RULES: Mapping[str, tuple[Callable[[Fused, Sequence[bool], Target], Implementation | None], ...]] = {C99: COMPACT, CUDA: CUDA_RULES}

# Families whose tiles may be measured: (the function, which arguments are stored tensors, the target) -> the choice.
_CHOICES: Mapping[str, Callable[[Fused, Sequence[bool], Target], Choice | None]] = {"conv": conv.choice, "matmul": matmul.choice}

# Rules that schedule blocks, in order: (a schedule, the target) -> whether it applied.
SCHEDULED: tuple[tuple[str, Callable[[Any, Target], bool]], ...] = (
    ("elementwise", elementwise.apply),
    ("generic", generic.apply),
)


def implement(
    function: Any,
    fixed: Sequence[bool],
    target: Target,
    options: Options | None = None,
    values: Mapping[int, Array] = MappingProxyType({}),
    known: Known | None = None,
) -> Implementation:
    """The kernel of a fused TIR function.

    Args:
        function: over blocks with constant shapes, as relax legalises and fuses them. Functions without blocks (operators that TVM
            writes as plain loops) stay as they are.
        fixed: for each argument, whether it is a stored tensor: those may be laid out anew.
        target: gives vector lanes, registers and caches.
        options: what may be chosen.
        values: what stored arguments hold, by position: some algorithms measure their error on them.
        known: what is known of the program and its data; None where nothing is.
    """
    from tvm import s_tir

    if not isinstance(function.body, s_tir.SBlockRealize):
        return Implementation(function, "generic" if target.family != CUDA else ALONE)
    try:
        fused = Fused(function, values, options, known)
        for rule in (*rules_of(target), *RULES.get(target.family, WRITTEN)):
            implementation = rule(fused, fixed, target)
            if implementation is not None:
                return _remarked(implementation, fused)
    except NotInlinableError:  # blocks that a hand-written kernel cannot take in: each is scheduled by itself
        pass
    return cuda_scheduled(function, target) if target.family == CUDA else _scheduled(function, target)


def _remarked(implementation: Implementation, fused: Fused) -> Implementation:
    """The kernel with what rules that do not apply found out."""
    note = "; ".join(filter(None, [implementation.note, *fused.remarks, *fused.reasons]))
    return replace(implementation, note=note, depends_on_values=implementation.depends_on_values or bool(fused.remarks))


def tunable(
    function: Any, fixed: Sequence[bool], target: Target, options: Options | None = None, values: Mapping[int, Array] = MappingProxyType({})
) -> Choice | None:
    """The tiles among which measuring may choose for a function, best by the model first; None where its kernel has no such choice.

    Args:
        function, fixed, target, options, values: as for `implement`.
    """
    choice = _CHOICES.get(implement(function, fixed, target, options, values).family)
    return None if choice is None else choice(Fused(function), fixed, target)


def _scheduled(function: Any, target: Target) -> Implementation:
    import tvm
    from tvm import s_tir

    plain = tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
    for family, rule in SCHEDULED:
        sch = s_tir.Schedule(plain, error_render_level="none")
        try:
            applied = rule(sch, target)
        except s_tir.ScheduleError:  # the function is not what the rule expects: the next one tries from the beginning
            continue
        if applied:
            return Implementation(sch.mod["main"].without_attr("global_symbol"), family)
    return Implementation(function, "generic")
