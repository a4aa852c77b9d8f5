"""float16 to float32 and back by the bits, for RISC-V, whose own conversions are extensions (Zfhmin, Zvfhmin) that our targets do not have.

    before:   y[i : i + 8] = float32(x[i : i + 8])
    after:    b = bits of x;  m = ((b & 0x7FFF) << 13 as a float32) * 2^112;  y[...] = m with the sign of x, infinities and NaN apart

LLVM would call `__extendhfsf2` and `__truncsfhf2` for each lane. TVM puts functions of these names into its objects, which take and give
the bits in an integer register; LLVM has them in a floating-point one, as the ABI demands. Results are right by luck or not at all.

Wider: the mantissa's 10 bits become the upper ones of 23, and the exponent's bias goes from 15 to 127: exact, subnormal numbers, too.
Narrower: to the nearest, ties to even. Half of the last digit that stays, less one where that digit is even, is added before the others are
cut off; a carry goes into the exponent. For results that are subnormal (below 2^-14), adding 0.5 does the same, whose last digit is theirs.
"""

from __future__ import annotations

from typing import Any

__all__ = ["needs_bits", "with_bits"]

_SIGN, _INFINITY = 0x80000000, 0x7F800000
_BIAS = 127 - 15  # what the exponents differ by
_CUT = 23 - 10  # and the mantissas
_OVERFLOW, _NORMAL, _HALF = 0x47800000, 0x38800000, 0x3F000000  # float32's bits of 2^16, 2^-14 and 0.5


def needs_bits(target: Any) -> bool:
    """Whether a tvm.target.Target is RISC-V."""
    return str(target.attrs.get("mtriple", "")).startswith("riscv")


def with_bits(function: Any) -> Any:
    """A TIR function, its loops already vectors, without conversions between float16 and float32."""
    import tvm_ffi
    from tvm import tirx

    def cast(one: Any, mutator: Any) -> Any:
        one = mutator.default_mutate(one)
        (before, _, lanes), after = str(one.value.ty.dtype).partition("x"), str(one.ty.dtype).partition("x")[0]
        form = {("float16", "float32"): _wider, ("float32", "float16"): _narrower}.get((before, after))
        return one if form is None else form(one.value, _Lanes(int(lanes or 1)))

    return function.with_body(tvm_ffi.structural_mutate(function.body, [(tirx.Cast, cast)]))


class _Lanes:
    """Types and constants of vectors of a width; a vector of one element is a scalar."""

    def __init__(self, count: int) -> None:
        self.count = count

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
