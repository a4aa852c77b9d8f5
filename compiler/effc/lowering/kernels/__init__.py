"""Schedules: how a kernel's loops are tiled, vectorised and spread over threads. One file per operator family; the table is `RULES`.

A rule gets a schedule of one TIR function and returns True when it applies; a function takes the first rule that does. Schedules never
change what is computed (sums may be reordered). What no rule takes is left as plain loops.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from effc.lowering.kernels import conv2d, depthwise, elementwise, generic, matmul, pool
from effc.targets import Target

__all__ = ["RULES", "schedule"]

Rule = Callable[[Any, Target], bool]

# In order: the first rule that applies takes the function.
RULES: tuple[tuple[str, Rule], ...] = (
    ("elementwise", elementwise.apply),
    ("conv2d", conv2d.apply),
    ("depthwise", depthwise.apply),
    ("matmul", matmul.apply),
    ("pool", pool.apply),
    ("generic", generic.apply),
)


def schedule(module: Any, target: Target) -> Any:
    """The module with every TIR function scheduled; each carries its rule's name as attribute `effc.family`.

    Args:
        module: a tvm.IRModule of TIR functions over blocks with constant shapes, as relax legalises and fuses them. Functions without
            blocks (operators that TVM writes as plain loops) stay as they are.
        target: gives vector lanes, registers and caches.
    """
    import tvm
    import tvm_ffi
    from tvm import s_tir, tirx

    done: dict[Any, tuple[str, Any]] = {}
    functions = {}
    for variable, function in module.functions.items():
        if not isinstance(function, tirx.PrimFunc) or not isinstance(function.body, s_tir.SBlockRealize):
            functions[variable] = function
            continue
        anonymous = function.without_attr("global_symbol")
        key = tvm_ffi.structural_hash(anonymous)
        if key not in done or not tvm_ffi.structural_equal(done[key][0], anonymous):
            done[key] = (anonymous, _scheduled(anonymous, target))
        result = done[key][1]
        symbol = (function.attrs or {}).get("global_symbol")
        functions[variable] = result.with_attr("global_symbol", symbol) if symbol is not None else result
    return tvm.IRModule(functions)


def _scheduled(function: Any, target: Target) -> Any:
    import tvm
    from tvm import s_tir

    plain = tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
    for family, rule in RULES:
        sch = s_tir.Schedule(plain, error_render_level="none")
        try:
            applied = rule(sch, target)
        except s_tir.ScheduleError:  # the function is not what the rule expects: the next one tries from the beginning
            continue
        if applied:
            return sch.mod["main"].without_attr("global_symbol").with_attr("effc.family", family)
    return function
