"""Elementary functions of float32 as plain arithmetic, which stays in vectors where TVM would call the C library once per element.

Every function builds an expression of additions, products, quotients, selections, shifts and reinterpreted bits; a value that is used more
than once is bound by `tirx.Let`. `expansion` puts them in the place of calls.

All hand NaN on whatever its bits, give the limits at infinities and keep the sign of zero. A result below 2^-126 may be 0, since subnormal
numbers take a hundred times as long as others. `ulp` is the distance between neighbours at the exact result; its bounds hold whether or not
LLVM contracts products and sums into fused multiply-adds.

Coefficients: iteratively reweighted least squares (Lawson's algorithm) for the relative error at 4000 Chebyshev nodes, against references
of 40 digits. One coefficient after another was rounded to float32 and the rest fitted again. A power of 2 behind a polynomial is the error
that is left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

__all__ = ["erf", "exp", "expm1", "is_nan", "log", "log1p", "nearest", "power", "rsqrt", "sigmoid", "tanh"]

# Cody and Waite: x = n ln 2 + r with ln 2 in two parts, the first of which has so few digits that n times it is exact.
_LOG2_E = math.log2(math.e)
_LN2_HIGH = 0.693359375
_LN2_LOW = math.log(2) - _LN2_HIGH
# Added to a number, 1.5 * 2^23 rounds it to an integer, which then is the lowest bits of the sum.
_ROUNDER = 1.5 * 2**23
_BIAS = 127  # of the exponent, above 23 bits of the mantissa
_MANTISSA = 23
_SIGN = -(1 << 31)
_SIGN_AND_EXPONENT = -(1 << _MANTISSA)
_SQRT_HALF = 0x3F3504F3  # its bits
_FOUR = 0x40800000
_INFINITY = 0x7F800000

# The largest x whose exp is finite, the smallest whose exp is at least 2^-126.
_EXP_HIGH, _EXP_LOW = 88.72283172607422, -87.33654022216797
# exp(r) = 1 + r + r^2 P(r), |r| <= ln 2 / 2: 2^-28.2
_EXP = (0.4999999403953552, 0.1666652113199234, 0.04166828840970993, 0.008368703536689281, 0.0013818938750773668)
# expm1(r) = r + r^2 P(r), |r| <= ln 2 / 2: 2^-26.1
_EXPM1 = (0.4999999701976776, 0.1666654497385025, 0.04166746139526367, 0.008366432040929794, 0.0013868435053154826)
# log(1 + f) = f + f^2 P(f), sqrt(1/2) <= 1 + f < sqrt(2): 2^-25.0
_LOG = (
    *(-0.49999991059303284, 0.33333948254585266, -0.25001785159111023, 0.1996215581893921, -0.16570048034191132),
    *(0.1491681933403015, -0.14309664070606232, 0.08740008622407913),
)
# log(1 - erf(t)) = t P(t) - t, 0 <= t <= 4, weighted for erf: 2^-27.8
_ERF = (
    *(-0.12837916612625122, -0.6366195678710938, -0.10277630388736725, 0.01914782077074051, 0.0001695151295280084),
    *(-0.0016756982076913118, 0.0006373829673975706, -0.0001188693058793433, 9.389172191731632e-06),
)
_ERF_END, _TANH_END = 4.0, 10.0  # both are 1 in float32 from here on
_TINY = 2.0**-26  # below it, expm1(x) and log1p(x) are x
_MOST_FACTORS = 8


def exp(x: Any) -> Any:
    """e^x within 1.2 ulp (0.9 with fused multiply-adds); 0 below -87.3366, where results become subnormal, and inf above 88.7228."""
    steps = _Steps()
    x = steps(x)
    r, rounded = _reduced(steps, x, 0)
    # n is added to the exponent of e^r. What that makes of results which are no normal numbers, or of NaN, is not used.
    y = _floating(_bits(_exp_of_rest(r)) + (_bits(rounded) << _MANTISSA))
    y = _select(x <= _like(x, _EXP_HIGH), y, x + _like(x, math.inf))
    return steps.end(_select(x < _like(x, _EXP_LOW), _like(x, 0.0), y))


def expm1(x: Any) -> Any:
    """e^x - 1 within 1.7 ulp."""
    steps = _Steps()
    x = steps(x)
    r, rounded = _reduced(steps, steps(_at_least(_at_most(x, 89.0), -25.0)), _BIAS - 1)
    half = steps(_power_of_two(rounded))  # half of 2^n, which for n = 128 has no float32
    y = half * _expm1_of_rest(r) + (half - _like(x, 0.5))
    return steps.end(_select(_is_tiny(x), x, y * _like(x, 2.0)))


def sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x) within 2.5 ulp; below -87.3 it is subnormal or 0."""
    steps = _Steps()
    x = steps(_at_least(_at_most(x, 87.4), -89.0))
    r, rounded = _reduced(steps, x * _like(x, -1.0), _BIAS - 1)
    half = _exp_of_rest(r) * _power_of_two(rounded)  # inf and 0 at the two ends
    return steps.end(_like(x, 1.0) / (half * _like(x, 2.0) + _like(x, 1.0)))


def tanh(x: Any) -> Any:
    """tanh(x) = e / (e + 2), where e = expm1(2 |x|), within 2.9 ulp; never beyond 1, and exactly odd."""
    steps = _Steps()
    x = steps(x)
    p, s = _expm1_parts(steps, _at_most(_magnitude(x), _TANH_END) * _like(x, 2.0))
    one = _like(x, 1.0)
    return steps.end(_with_sign_of(x, (p + (s - one)) / (p + (s + one))))


def erf(x: Any) -> Any:
    """The error function, within 2.1 ulp; never beyond 1, and exactly odd."""
    steps = _Steps()
    x = steps(x)
    t = steps(_at_most(_magnitude(x), _ERF_END))
    p, s = _expm1_parts(steps, t * _horner(_ERF, t) - t)
    return steps.end(_with_sign_of(x, (_like(x, 1.0) - s) - p))


def log(x: Any) -> Any:
    """The natural logarithm, of subnormal numbers too, within 1.2 ulp."""
    steps = _Steps()
    x = steps(x)
    small = x < _like(x, 2.0**-126)
    bits = steps(_bits(_select(small, x * _like(x, 2.0**23), x)))
    exponent = steps(_exponent_around_1(bits))
    f = steps(_floating(bits - exponent) - _like(x, 1.0))
    n = steps(_as_number(exponent) - _select(small, _like(x, 23.0), _like(x, 0.0)))
    return steps.end(_log_with_limits(x, x, n, f))


def log1p(x: Any) -> Any:
    """log(1 + x) within 1.8 ulp."""
    steps = _Steps()
    x = steps(x)
    u = steps(x + _like(x, 1.0))
    exponent = steps(_exponent_around_1(steps(_bits(u))))
    # f = (1 + x) / 2^n - 1 from x itself, since u is rounded. 4 / 2^n is a normal number for every n.
    scale = steps(_floating(_like(exponent, _FOUR) - exponent))
    quarter = _like(x, 0.25)
    f = steps(x * quarter * scale + (scale * quarter - _like(x, 1.0)))
    y = _log_with_limits(u, x, steps(_as_number(exponent)), f)
    return steps.end(_select(_is_tiny(x), x, y))


def power(x: Any, exponent: float) -> Any | None:
    """x^exponent within 4 ulp, of products and square roots, for multiples of 1/4 up to 8; None for others. 1/2 is sqrt, as in torch."""
    from tvm import tirx

    whole, rest = divmod(abs(exponent), 1.0)
    if rest not in (0.0, 0.25, 0.5, 0.75) or not 0 < abs(exponent) <= _MOST_FACTORS:
        return None
    steps = _Steps()
    x = steps(x)
    if rest and abs(exponent) != 0.5:  # the root of -inf is NaN, its power is that of inf
        x = steps(_select(x == _like(x, -math.inf), _like(x, math.inf), x))
    factors = []
    if rest:
        root = steps(tirx.sqrt(x))
        factors += [root] if rest >= 0.5 else []
        factors += [tirx.sqrt(root)] if rest != 0.5 else []
    square, count = x, int(whole)
    while count:
        factors += [square] if count % 2 else []
        count //= 2
        square = steps(square * square) if count else square
    result = factors[0]
    for factor in factors[1:]:
        result = result * factor
    return steps.end(result if exponent > 0 else _like(x, 1.0) / result)


def rsqrt(x: Any) -> Any:
    """1 / sqrt(x), as TVM computes it, which has no vector form of the call itself."""
    from tvm import tirx

    return _like(x, 1.0) / tirx.sqrt(x)


def is_nan(x: Any) -> Any:
    """Whether x is NaN, from its bits: TVM has no vector form of `isnan`, and simplifies `x != x` to false."""
    bits = _bits(x)
    return (bits & _like(bits, ~_SIGN)) > _like(bits, _INFINITY)


def nearest(x: Any) -> Any:
    """x rounded to an integer, half to even: the instruction, for which TVM's own call has no vector form."""
    from tvm import tirx

    return tirx.call_llvm_pure_intrin(_dtype(x), "llvm.nearbyint", x)


class _Steps:
    """Bindings of the values that an expression uses more than once."""

    def __init__(self) -> None:
        self._bound: list[tuple[Any, Any]] = []

    def __call__(self, value: Any) -> Any:
        """A variable for a value."""
        from tvm import tirx

        if isinstance(value, (tirx.Var, tirx.FloatImm)):
            return value
        variable = tirx.Var(f"m{len(self._bound)}", value.ty)
        self._bound.append((variable, value))
        return variable

    def end(self, result: Any) -> Any:
        """The expression with all its bindings."""
        from tvm import tirx

        for variable, value in reversed(self._bound):
            result = tirx.Let(variable, value, result)
        return result


def _reduced(steps: _Steps, x: Any, bias: int) -> tuple[Any, Any]:
    """x = n ln 2 + r with |r| <= ln 2 / 2: r, and a number whose lowest bits are n + bias."""
    x = steps(x)
    rounder = _like(x, _ROUNDER + bias)
    rounded = steps(x * _like(x, _LOG2_E) + rounder)
    n = steps(rounded - rounder)
    return steps((x - n * _like(x, _LN2_HIGH)) - n * _like(x, _LN2_LOW)), rounded


def _power_of_two(rounded: Any) -> Any:
    """2^(k - 127) of the k in the lowest bits, 0 <= k < 255; the other bits are shifted out."""
    return _floating(_bits(rounded) << _MANTISSA)


def _exp_of_rest(r: Any) -> Any:
    return _horner((1.0, 1.0, *_EXP), r)


def _expm1_of_rest(r: Any) -> Any:
    return r * r * _horner(_EXPM1, r) + r


def _expm1_parts(steps: _Steps, x: Any) -> tuple[Any, Any]:
    """e^x - 1 = p + (s - 1), exact to the last place, for -87 < x < 88."""
    r, rounded = _reduced(steps, x, _BIAS)
    s = steps(_power_of_two(rounded))
    return steps(s * _expm1_of_rest(r)), s


def _exponent_around_1(bits: Any) -> Any:
    """n << 23 for a number in sqrt(1/2) 2^n .. sqrt(2) 2^n."""
    return (bits - _like(bits, _SQRT_HALF)) & _like(bits, _SIGN_AND_EXPONENT)


def _as_number(exponent: Any) -> Any:
    from tvm import tirx

    return tirx.Cast(_dtype(exponent).replace("int", "float"), exponent >> _MANTISSA)


def _log_with_limits(argument: Any, infinity: Any, n: Any, f: Any) -> Any:
    """n ln 2 + log(1 + f); what `argument` says below 0, at 0 and for NaN, and `infinity` where that is infinite."""
    y = (f * f * _horner(_LOG, f) + n * _like(f, _LN2_LOW)) + f + n * _like(f, _LN2_HIGH)
    y = _select(infinity < _like(f, math.inf), y, infinity)
    none = _select(argument == _like(f, 0.0), _like(f, -math.inf), _like(f, math.nan))
    return _select(argument > _like(f, 0.0), y, none)


def _is_tiny(x: Any) -> Any:
    return _magnitude(x) < _like(x, _TINY)


def _magnitude(x: Any) -> Any:
    from tvm import tirx

    return tirx.abs(x)


def _with_sign_of(x: Any, y: Any) -> Any:
    """A positive y with the sign of x."""
    bits = _bits(x)
    return _floating(_bits(y) | (bits & _like(bits, _SIGN)))


def _at_most(x: Any, high: float) -> Any:
    return _select(x > _like(x, high), _like(x, high), x)  # NaN stays


def _at_least(x: Any, low: float) -> Any:
    return _select(x < _like(x, low), _like(x, low), x)


def _horner(coefficients: Sequence[float], x: Any) -> Any:
    result = _like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        result = result * x + _like(x, coefficient)
    return result


def _dtype(x: Any) -> str:
    return str(x.ty.dtype)


def _like(x: Any, value: float) -> Any:
    from tvm import tirx

    return tirx.const(value, _dtype(x))


def _select(condition: Any, true: Any, false: Any) -> Any:
    from tvm import tirx

    return tirx.Select(condition, true, false)


def _bits(x: Any) -> Any:
    from tvm import tirx

    return tirx.reinterpret(_dtype(x).replace("float", "int"), x)


def _floating(bits: Any) -> Any:
    from tvm import tirx

    return tirx.reinterpret(_dtype(bits).replace("int", "float"), bits)
