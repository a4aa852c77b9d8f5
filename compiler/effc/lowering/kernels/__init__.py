"""Kernels: the code of a fused function. One file per operator family; the tables are `WRITTEN` and `SCHEDULED`.

A function that has an anchor (a convolution, a product: see `fused`) is offered to the rules of `WRITTEN`, which write its loops. What
they leave is scheduled as it stands by the first rule of `SCHEDULED` that applies. Neither changes what is computed, but sums may be
reordered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from effc.lowering.kernels import attention, conv, depthwise, elementwise, generic, integer_conv, integer_depthwise, matmul, pool, rows, totals
from effc.lowering.kernels.fused import Fused, NotInlinableError
from effc.lowering.kernels.implementation import Implementation
from effc.targets import Target

__all__ = ["SCHEDULED", "WRITTEN", "Implementation", "implement"]

# Rules that write the code: (the function, which arguments are stored tensors, the target) -> the kernel, or None.
WRITTEN: tuple[Callable[[Fused, Sequence[bool], Target], Implementation | None], ...] = (
    depthwise.depthwise,
    conv.direct,
    matmul.product,
    pool.pool,
    totals.total,
    attention.attention,
    rows.rows,
    integer_depthwise.depthwise,
    integer_conv.convolution,
    integer_conv.product,
)

# Rules that schedule blocks, in order: (a schedule, the target) -> whether it applied.
SCHEDULED: tuple[tuple[str, Callable[[Any, Target], bool]], ...] = (
    ("elementwise", elementwise.apply),
    ("generic", generic.apply),
)


def implement(function: Any, fixed: Sequence[bool], target: Target) -> Implementation:
    """The kernel of a fused TIR function.

    Args:
        function: over blocks with constant shapes, as relax legalises and fuses them. Functions without blocks (operators that TVM
            writes as plain loops) stay as they are.
        fixed: for each argument, whether it is a stored tensor: those may be laid out anew.
        target: gives vector lanes, registers and caches.
    """
    from tvm import s_tir

    if not isinstance(function.body, s_tir.SBlockRealize):
        return Implementation(function, "generic")
    try:
        fused = Fused(function)
        for rule in WRITTEN:
            implementation = rule(fused, fixed, target)
            if implementation is not None:
                return implementation
    except NotInlinableError:  # blocks that a hand-written kernel cannot take in: each is scheduled by itself
        pass
    return _scheduled(function, target)


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
