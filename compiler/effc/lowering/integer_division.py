"""Integer division that cannot end the process: a divisor of 0 gives 0, and the lowest integer by -1 wraps around.

On x86 both trap (SIGFPE). ONNX leaves division by zero open and torch raises; compiled code has no way to raise, and a fault may put a
0 where the network never had one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from effc.lowering.broadcasting import element

__all__ = ["LEGALISE", "divide"]


def divide(x: Any, y: Any, quotient: Callable[[Any, Any], Any]) -> Any:
    """`quotient(x, y)` of two integer elements, safe for every y."""
    from tvm import tirx

    zero, one = (tirx.const(value, x.ty.dtype) for value in (0, 1))
    if _unsigned(x):
        return tirx.Select(y == zero, zero, quotient(x, tirx.Select(y == zero, one, y)))
    minus_one = tirx.const(-1, x.ty.dtype)
    safe = tirx.Select(tirx.any(y == zero, y == minus_one), one, y)
    return tirx.Select(y == zero, zero, tirx.Select(y == minus_one, zero - x, quotient(x, safe)))


def _remainder(x: Any, y: Any, remainder: Callable[[Any, Any], Any]) -> Any:
    from tvm import tirx

    zero, one = (tirx.const(value, x.ty.dtype) for value in (0, 1))
    unusual = y == zero if _unsigned(x) else tirx.any(y == zero, y == tirx.const(-1, x.ty.dtype))
    return tirx.Select(unusual, zero, remainder(x, tirx.Select(unusual, one, y)))


def _unsigned(x: Any) -> bool:
    return "uint" in str(x.ty.dtype)


def _legalise(relax_name: str, name: str, form: Callable[[Any, Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def legalise(builder: Any, call: Any) -> Any:
        import tvm
        from tvm import te, tirx

        if "float" in str(call.ty.dtype):
            return tvm.ir.Op.get(relax_name).get_attr("FLegalize")(builder, call)
        shape = [int(size) for size in call.ty.shape]

        def computed(a: Any, b: Any) -> Any:
            def quotient(*index: Any) -> Any:
                return form(element(a, index, shape), element(b, index, shape), getattr(tirx, name))

            return te.compute(shape, quotient, name=name)

        return builder.call_te(computed, call.args[0], call.args[1], primfunc_name_hint=name)

    return legalise


# Relax operators whose TIR function effc writes itself.
LEGALISE: dict[str, Callable[[Any, Any], Any]] = {
    "relax.floor_divide": _legalise("relax.floor_divide", "floordiv", divide),
    "relax.floor_mod": _legalise("relax.floor_mod", "floormod", _remainder),
    "relax.mod": _legalise("relax.mod", "truncmod", _remainder),
}
