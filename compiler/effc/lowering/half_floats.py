"""float16 by the bits, for processors without it: RISC-V, whose own are extensions (Zfhmin, Zvfhmin) that our targets lack, and Hexagon.

    before:   y[i : i + 8] = float32(x[i : i + 8])
    after:    b = bits of x;  m = ((b & 0x7FFF) << 13 as a float32) * 2^112;  y[...] = m with the sign of x, infinities and NaN apart

LLVM would call functions for each lane, and not for conversions only: it widens the operands of a sum or a comparison of float16, too. For
RISC-V it calls `__extendhfsf2` and `__truncsfhf2`. TVM puts functions of these names into its objects, which take and give the bits in an
integer register; LLVM has them in a floating-point one, as the ABI demands. Results are right by luck or not at all. For Hexagon these two
are right, but nobody has `__truncdfhf2`. So float16 is only moved here (loaded, stored, chosen); whatever computes does so in float32.

Wider: the mantissa's 10 bits become the upper ones of 23, and the exponent's bias goes from 15 to 127: exact, subnormal numbers, too.
Narrower: to the nearest, ties to even. Half of the last digit that stays, less one where that digit is even, is added before the others are
cut off; a carry goes into the exponent. For results that are subnormal (below 2^-14), adding 0.5 does the same, whose last digit is theirs.

Everything else goes by way of float32, and is rounded to float16 once for all that:

- Integers: float32 holds them exactly up to 2^24. Larger ones it rounds, but they stay large, and from 65520 on float16 has infinity only.
- float64: float32 is rounded to odd, `_odd`. What lies beside the middle of two float16 then does not come to lie on it. So do numpy and
  code for other processors; torch rounds to the nearest twice, and 1 + 2^-11 + 2^-40 becomes 1.
- Sums, products, quotients and square roots: float32's 24 digits are twice those of float16 and two more; with so many the result is the
  one that rounding the exact value gives (Figueroa, When is double rounding innocuous?, 1995).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from effc.errors import Problem, UnsupportedModelError
from effc.lowering.expansion import in_local_variables
from effc.lowering.relax_edit import operator_name

__all__ = ["needs_bits", "with_bits"]

_SIGN, _INFINITY = 0x80000000, 0x7F800000
_BIAS = 127 - 15  # what the exponents differ by
_CUT = 23 - 10  # and the mantissas
_TAIL = 52 - 23  # what float64's mantissa has more than float32's
_OVERFLOW, _NORMAL, _HALF = 0x47800000, 0x38800000, 0x3F000000  # float32's bits of 2^16, 2^-14 and 0.5

_TRIPLES = ("riscv", "hexagon")
_NUMBERS = ("float32", "float64", "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
# Calls that only move a value or tell where it is: LLVM treats a float16 as 16 bits there.
_MOVES = frozenset(
    ("prim.if_then_else", "tirx.reinterpret", "tirx.address_of", "tirx.type_annotation", "tirx.tvm_access_ptr", "tirx.buffer_data")
)
# Functions of real numbers: those of float32, rounded, are those of float16. (The neighbour of a number, say, is another one.)
# fmt: off
_FUNCTIONS = frozenset((
    "tirx.acos", "tirx.acosh", "tirx.asin", "tirx.asinh", "tirx.atan", "tirx.atan2", "tirx.atanh", "prim.ceil", "tirx.copysign", "tirx.cos",
    "tirx.cosh", "tirx.erf", "tirx.exp", "tirx.exp10", "tirx.exp2", "tirx.fabs", "tirx.floor", "tirx.fma", "tirx.fmod", "tirx.hypot",
    "tirx.isfinite", "tirx.isinf", "tirx.isnan", "tirx.log", "tirx.log10", "tirx.log1p", "prim.log2", "tirx.nearbyint", "tirx.pow",
    "tirx.round", "tirx.rsqrt", "tirx.sigmoid", "tirx.sin", "tirx.sinh", "tirx.sqrt", "tirx.tan", "tirx.tanh", "tirx.trunc",
))
# fmt: on


def needs_bits(target: Any) -> bool:
    """Whether code for a tvm.target.Target must not compute in float16."""
    return str(target.attrs.get("mtriple", "")).startswith(_TRIPLES)


def with_bits(function: Any) -> Any:
    """A TIR function, its loops already vectors, that converts float16 by the bits and computes in float32 what it computes in float16.

    Raises UnsupportedModelError for what would still be computed in float16: it names all such operations.
    """
    import tvm_ffi
    from tvm import tirx
    from tvm.ir import Call

    refused: dict[str, None] = {}

    def cast(one: Any, mutator: Any) -> Any:
        one = mutator.default_mutate(one)
        before, after = _element(one.value), _element(one)
        if before == after or "float16" not in (before, after):
            return one
        other = before if after == "float16" else after
        if other not in _NUMBERS:
            refused[f"a conversion from {before} to {after}"] = None
            return one
        lanes = _Lanes.of(one)
        if before == "float16":
            single = _single(one.value)
            return single if after == "float32" else tirx.Cast(lanes.kind(after), single)
        if before == "float64":
            return _half(tirx.Cast(lanes.kind("float32"), _odd(one.value, lanes)))
        return _half(one.value if before == "float32" else tirx.Cast(lanes.kind("float32"), one.value))

    def arithmetic(one: Any, mutator: Any) -> Any:
        one = mutator.default_mutate(one)
        return _half(type(one)(_single(one.a), _single(one.b))) if _element(one) == "float16" else one

    def comparison(one: Any, mutator: Any) -> Any:
        one = mutator.default_mutate(one)
        return type(one)(_single(one.a), _single(one.b)) if _element(one.a) == "float16" else one

    def call(one: Any, mutator: Any) -> Any:
        one = mutator.default_mutate(one)
        name, halves = operator_name(one), [_element(given) == "float16" for given in one.args]
        if not (any(halves) or _element(one) == "float16") or name in _MOVES:
            return one
        if name not in _FUNCTIONS:
            refused[f"{name or one.op} of float16"] = None
            return one
        given = [_single(argument) if half else argument for argument, half in zip(one.args, halves, strict=True)]
        if _element(one) != "float16":
            return Call(one.op, given, attrs=one.attrs, ret_ty=one.ty)
        return _half(Call(one.op, given, attrs=one.attrs, ret_ty=_Lanes.of(one).kind("float32")))

    operations = (tirx.Add, tirx.Sub, tirx.Mul, tirx.Div, tirx.Mod, tirx.FloorDiv, tirx.FloorMod, tirx.Min, tirx.Max)
    comparisons = (tirx.EQ, tirx.NE, tirx.LT, tirx.LE, tirx.GT, tirx.GE)
    rules: list[tuple[Any, Callable[[Any, Any], Any]]] = [(tirx.Cast, cast), (Call, call)]
    rules += [*((kind, arithmetic) for kind in operations), *((kind, comparison) for kind in comparisons)]
    body = tvm_ffi.structural_mutate(function.body, rules)
    if refused:
        where = str((function.attrs or {}).get("global_symbol", "a kernel"))
        why = "there is no exact code for it on processors without float16"
        problems = tuple(Problem(where, what, why, "let the model compute this in float32") for what in refused)
        raise UnsupportedModelError("the program computes in float16 what this target cannot", problems)
    return in_local_variables(function.with_body(body))


def _element(value: Any) -> str:
    """The type of a value's elements; empty for what has none, such as the name of a function."""
    return str(getattr(getattr(value, "ty", None), "dtype", "")).partition("x")[0]


class _Lanes:
    """Types and constants of vectors of a width; a vector of one element is a scalar."""

    def __init__(self, count: int) -> None:
        self.count = count

    @classmethod
    def of(cls, value: Any) -> _Lanes:
        """Those of an expression."""
        return cls(int(str(value.ty.dtype).partition("x")[2] or 1))

    def kind(self, name: str) -> str:
        return name if self.count == 1 else f"{name}x{self.count}"

    def number(self, value: float, dtype: str = "uint32") -> Any:
        from tvm import tirx

        one = tirx.const(value, dtype)
        return one if self.count == 1 else tirx.Broadcast(one, self.count)

    def bits(self, value: Any) -> Any:
        from tvm import tirx

        return tirx.reinterpret(self.kind("uint32"), value)

    def single(self, bits: Any) -> Any:
        from tvm import tirx

        return tirx.reinterpret(self.kind("float32"), bits)


def _single(value: Any) -> Any:
    """A float16 as a float32."""
    from tvm import tirx

    if isinstance(value, tirx.FloatImm):
        with np.errstate(over="ignore"):  # a constant too large for float16 is infinity
            return tirx.FloatImm("float32", float(np.float16(value.value)))
    if isinstance(value, tirx.Broadcast):
        return tirx.Broadcast(_single(value.value), value.lanes)
    lanes = _Lanes.of(value)
    return _bound(value, lambda half: _wider(half, lanes))


def _half(value: Any) -> Any:
    """A float32, rounded to float16."""
    lanes = _Lanes.of(value)
    return _bound(value, lambda single: _narrower(single, lanes))


def _bound(value: Any, build: Callable[[Any], Any]) -> Any:
    """What is built of a value that stands in it more than once, which the code generator would compute, and bind, as often."""
    from tvm import tirx

    if isinstance(value, (tirx.Var, tirx.FloatImm)):
        return build(value)
    variable = tirx.Var("given", value.ty)
    return tirx.Let(variable, value, build(variable))


def _odd(value: Any, lanes: _Lanes) -> Any:
    """A float64 with the digits that float32 has, the last of which is 1 where others were cut off. Such a float64 is a float32 exactly.

    Where it is none because float32 overflows or underflows, float16 has long done so. What is cut off a NaN makes that digit 1, so that it
    stays one.
    """
    from tvm import tirx

    kind = lanes.kind("int64")
    cut, ones = lanes.number(_TAIL, "int64"), lanes.number((1 << _TAIL) - 1, "int64")
    bits = _bound(tirx.reinterpret(kind, value), lambda given: (given | ((given & ones) + ones)) >> cut << cut)
    return tirx.reinterpret(lanes.kind("float64"), bits)


def _wider(value: Any, lanes: _Lanes) -> Any:
    from tvm import tirx

    number = lanes.number
    bits = tirx.Cast(lanes.kind("uint32"), tirx.reinterpret(lanes.kind("uint16"), value))
    magnitude = (bits & number(0x7FFF)) << number(_CUT)
    finite = lanes.bits(lanes.single(magnitude) * number(2.0**_BIAS, "float32"))
    chosen = tirx.Select((bits & number(0x7C00)) == number(0x7C00), magnitude | number(_INFINITY), finite)
    return lanes.single(chosen | ((bits & number(0x8000)) << number(16)))


def _narrower(value: Any, lanes: _Lanes) -> Any:
    from tvm import tirx

    number = lanes.number
    bits = lanes.bits(value)
    magnitude = bits & number(_SIGN - 1)
    odd = (magnitude >> number(_CUT)) & number(1)
    normal = (magnitude - number(_BIAS << 23) + number((1 << (_CUT - 1)) - 1) + odd) >> number(_CUT)
    subnormal = lanes.bits(lanes.single(magnitude) + number(0.5, "float32")) - number(_HALF)
    chosen = tirx.Select(magnitude < number(_NORMAL), subnormal, normal)
    chosen = tirx.Select(magnitude >= number(_OVERFLOW), number(0x7C00), chosen)
    chosen = tirx.Select(magnitude > number(_INFINITY), number(0x7E00), chosen)
    signed = chosen | ((bits >> number(16)) & number(0x8000))
    return tirx.reinterpret(lanes.kind("float16"), tirx.Cast(lanes.kind("uint16"), signed))
