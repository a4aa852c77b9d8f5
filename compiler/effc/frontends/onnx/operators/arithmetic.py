"""Elementwise arithmetic: the four operations, powers, remainders, rounding, exponentials, trigonometry, extrema.

torch computes little in unsigned 16, 32 and 64 bits. The first two are computed in 64 signed bits and wrapped back; of the last, only
what is the same in two's complement.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor

from effc.frontends.onnx.operators.base import Node, Operator, Unsupported, Value
from effc.frontends.onnx.operators.values import all_constant, folds, is_constant, number, tensor

__all__ = ["OPERATORS", "in_supported_integers"]

_WIDENED = (torch.uint16, torch.uint32)


def in_supported_integers(function: Callable[..., Tensor], *operands: Tensor, same_in_twos_complement: bool = False) -> Tensor:
    """`function(*operands)` in the operands' common dtype, also where that is an unsigned one that torch cannot compute with."""
    dtype = operands[0].dtype
    if dtype in _WIDENED:
        return function(*(operand.to(torch.int64) for operand in operands)).to(dtype)
    if dtype == torch.uint64:
        if not same_in_twos_complement:
            raise Unsupported("uint64 operands", "use int64")
        return function(*(operand.view(torch.int64) for operand in operands)).view(torch.uint64)
    return function(*operands)


def _operands(values: Sequence[Value]) -> tuple[Tensor, ...]:
    found = tuple(tensor(value) for value in values)
    if len({x.dtype for x in found}) > 1:
        types = ", ".join(str(x.dtype).removeprefix("torch.") for x in found)
        raise Unsupported(f"operands of types {types}", "ONNX wants one type: insert a Cast")
    return found


@folds(lambda node, a, b: np.add(a, b))
def add(node: Node, a: Value, b: Value) -> Tensor:
    return in_supported_integers(torch.add, *_operands((a, b)), same_in_twos_complement=True)


@folds(lambda node, a, b: np.subtract(a, b))
def sub(node: Node, a: Value, b: Value) -> Tensor:
    return in_supported_integers(torch.sub, *_operands((a, b)), same_in_twos_complement=True)


@folds(lambda node, a, b: np.multiply(a, b))
def mul(node: Node, a: Value, b: Value) -> Tensor:
    return in_supported_integers(torch.mul, *_operands((a, b)), same_in_twos_complement=True)


def _divide_constants(node: Node, a: Any, b: Any) -> Any:
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype.kind == "f" or b.dtype.kind == "f":
        return np.divide(a, b)
    if object in (a.dtype, b.dtype):
        return np.floor_divide(a, b)  # sizes and what is computed from them are not negative
    if a.dtype.kind == "u":
        return a // b
    quotient = np.floor_divide(a, b)
    return np.where((np.remainder(a, b) != 0) & (quotient < 0), quotient + 1, quotient).astype(a.dtype)


@folds(_divide_constants)
def div(node: Node, a: Value, b: Value) -> Tensor:
    """Integers are divided with truncation towards zero."""
    a, b = _operands((a, b))
    if a.is_floating_point():
        return a / b
    return in_supported_integers(lambda x, y: torch.div(x, y, rounding_mode="trunc"), a, b)


def pow_(node: Node, base: Value, exponent: Value) -> Tensor:
    """The result has the base's type; mixed types are computed in the wider of the two."""
    base = tensor(base)
    if is_constant(exponent) and exponent is not None and exponent.size == 1 and base.is_floating_point() and exponent.ndim <= base.ndim:
        return torch.pow(base, number(exponent, "exponent"))
    exponent = tensor(exponent)
    if base.dtype in (torch.uint64, torch.uint32, torch.uint16) or exponent.dtype == torch.uint64:
        raise Unsupported("a power of unsigned integers", "use int64 or float32")
    if exponent.dtype in (torch.uint32, torch.uint16):
        exponent = exponent.to(torch.int64)
    if not base.is_floating_point() and not exponent.is_floating_point():
        wide = torch.promote_types(base.dtype, exponent.dtype)
        return torch.pow(base.to(wide), exponent.to(wide)).to(base.dtype)
    if not base.is_floating_point():
        return torch.pow(base.to(torch.float64), exponent.to(torch.float64)).to(base.dtype)
    return torch.pow(base, exponent.to(base.dtype) if not exponent.is_floating_point() else exponent).to(base.dtype)


def mod(node: Node, a: Value, b: Value) -> Tensor:
    """The sign of the divisor for fmod=0, that of the dividend (C's fmod) for fmod=1."""
    a, b = _operands((a, b))
    if node.get("fmod", 0):
        return in_supported_integers(torch.fmod, a, b)
    if a.is_floating_point():
        found = torch.remainder(a, b)
        return torch.where(found == 0, torch.copysign(found, b), found)
    return in_supported_integers(torch.remainder, a, b)


def _variadic(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    def call(node: Node, *values: Value) -> Tensor:
        operands = _operands(values)
        if len(operands) == 1:
            return operands[0].clone()
        return in_supported_integers(lambda *xs: reduce(function, xs), *operands)

    return call


def _variadic_sum(node: Node, *values: Value) -> Tensor:
    operands = _operands(values)
    return operands[0].clone() if len(operands) == 1 else reduce(torch.add, operands)


def mean(node: Node, *values: Value) -> Tensor:
    return _variadic_sum(node, *values) / len(values)


def _fold_extremum(numpy_function: Callable[..., Any], torch_function: Callable[..., Tensor]) -> Callable[..., Any]:
    call = _variadic(torch_function)

    def extremum(node: Node, *values: Value) -> Any:
        if all_constant(values):
            return reduce(numpy_function, values)
        return call(node, *values)

    return extremum


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def call(node: Node, x: Value) -> Tensor:
        return function(tensor(x))

    return call


def _fold_unary(in_numpy: Callable[[Any], Any], function: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    return folds(lambda node, x: in_numpy(x))(_unary(function))


def _absolute(x: Tensor) -> Tensor:
    return x.clone() if x.dtype in (torch.uint8, torch.uint16, torch.uint32, torch.uint64) else torch.abs(x)


def _sign(x: Tensor) -> Tensor:
    return in_supported_integers(torch.sign, x)


OPERATORS = (
    Operator("Abs", _unary(_absolute), 6),
    Operator("Acos", _unary(torch.acos), 7),
    Operator("Acosh", _unary(torch.acosh), 9),
    Operator("Add", add, 7),
    Operator("Asin", _unary(torch.asin), 7),
    Operator("Asinh", _unary(torch.asinh), 9),
    Operator("Atan", _unary(torch.atan), 7),
    Operator("Atanh", _unary(torch.atanh), 9),
    Operator("Ceil", _fold_unary(np.ceil, torch.ceil), 6),
    Operator("Cos", _unary(torch.cos), 7),
    Operator("Cosh", _unary(torch.cosh), 9),
    Operator("Div", div, 7),
    Operator("Erf", _unary(torch.erf), 9),
    Operator("Exp", _unary(torch.exp), 6),
    Operator("Floor", _fold_unary(np.floor, torch.floor), 6),
    Operator("Log", _unary(torch.log), 6),
    Operator("Max", _fold_extremum(np.maximum, torch.maximum), 6),
    Operator("Mean", mean, 6),
    Operator("Min", _fold_extremum(np.minimum, torch.minimum), 6),
    Operator("Mod", mod, 10),
    Operator("Mul", mul, 7),
    Operator("Neg", _fold_unary(np.negative, torch.neg), 6),
    Operator("Pow", pow_, 7),
    Operator("Reciprocal", _unary(torch.reciprocal), 6),
    Operator("Round", _unary(torch.round), 11),
    Operator("Sign", _unary(_sign), 9),
    Operator("Sin", _unary(torch.sin), 7),
    Operator("Sinh", _unary(torch.sinh), 9),
    Operator("Sqrt", _fold_unary(np.sqrt, torch.sqrt), 6),
    Operator("Sub", sub, 7),
    Operator("Sum", _variadic_sum, 6),
    Operator("Tan", _unary(torch.tan), 7),
)
