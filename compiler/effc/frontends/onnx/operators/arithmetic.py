"""Element-wise arithmetic, logic and comparison."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from effc.frontends.onnx.operators.base import Node, Operator, Unsupported
from effc.frontends.onnx.operators.helpers import torch_dtype

__all__ = ["OPERATORS"]


def _divide(node: Node, a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _modulo(node: Node, a: Tensor, b: Tensor) -> Tensor:
    return torch.fmod(a, b) if node.get("fmod", 0) else torch.remainder(a, b)


def _power(node: Node, a: Tensor, b: Tensor) -> Tensor:
    # The result has the base's type, whatever the exponent's is.
    if a.is_floating_point():
        return torch.pow(a, b.to(a.dtype))
    if b.is_floating_point():
        return torch.pow(a.to(torch.float64), b.to(torch.float64)).to(a.dtype)
    return torch.pow(a, b).to(a.dtype)


def _shift(node: Node, a: Tensor, b: Tensor) -> Tensor:
    if a.dtype != torch.uint8:
        raise Unsupported(f"shifts of {a.dtype} are not covered", "uint8 works")
    wide, by = a.to(torch.int32), b.to(torch.int32).clamp(max=8)
    shifted = wide << by if node.attributes["direction"] == "LEFT" else wide >> by
    return (shifted & 255).to(torch.uint8)


def _fold(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda node, *operands: reduce(function, operands)


def _mean(node: Node, *operands: Tensor) -> Tensor:
    return reduce(torch.add, operands) / len(operands)


def _clip(node: Node, x: Tensor, low: Any = None, high: Any = None) -> Tensor:
    if node.opset < 11:
        low, high = node.get("min"), node.get("max")
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        bounded = x if low is None else torch.maximum(x, torch.as_tensor(low, dtype=x.dtype))
        return bounded if high is None else torch.minimum(bounded, torch.as_tensor(high, dtype=x.dtype))
    least = None if low is None else low.item() if hasattr(low, "item") else low
    most = None if high is None else high.item() if hasattr(high, "item") else high
    if least is None and most is None:
        return x.clone()
    if least is not None and most is not None and least > most:
        least = most
    return torch.clamp(x, least, most)


def _cast(node: Node, x: Tensor, *like: Tensor) -> Tensor:
    kind = like[0].dtype if like else torch_dtype(node.attributes["to"])
    if x.is_floating_point() and kind in (torch.uint8, torch.int8, torch.int16):
        x = x.to(torch.int32)  # truncates, then wraps, as numpy does
    return x.to(kind)


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda node, a, b: function(a, b)


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda node, a: function(a)


def _is_infinite(node: Node, x: Tensor) -> Tensor:
    up, down = node.get("detect_positive", 1), node.get("detect_negative", 1)
    inf = float("inf")
    if up and down:
        return (x == inf) | (x == -inf)
    return x == (inf if up else -inf) if up or down else torch.zeros_like(x, dtype=torch.bool)


def _sign(x: Tensor) -> Tensor:
    return torch.where(torch.isnan(x), x, torch.sign(x)) if x.is_floating_point() else torch.sign(x)


def _where(node: Node, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(condition, a, b)



_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Equal": torch.eq,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
}
_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs,
    "Neg": torch.neg,
    "Sqrt": torch.sqrt,
    "Exp": torch.exp,
    "Log": torch.log,
    "Erf": torch.erf,
    "Floor": torch.floor,
    "Ceil": torch.ceil,
    "Round": torch.round,
    "Reciprocal": torch.reciprocal,
    "Sign": _sign,
    "Sin": torch.sin,
    "Cos": torch.cos,
    "Tan": torch.tan,
    "Asin": torch.asin,
    "Acos": torch.acos,
    "Atan": torch.atan,
    "Sinh": torch.sinh,
    "Cosh": torch.cosh,
    "Asinh": torch.asinh,
    "Acosh": torch.acosh,
    "Atanh": torch.atanh,
    "Not": torch.logical_not,
    "BitwiseNot": torch.bitwise_not,
    "IsNaN": torch.isnan,
    "Identity": torch.clone,
}

OPERATORS: tuple[Operator, ...] = (
    *(Operator(name, _binary(function), since=7) for name, function in _BINARY.items()),
    *(Operator(name, _unary(function), since=6) for name, function in _UNARY.items()),
    Operator("Div", _divide, since=7),
    Operator("Mod", _modulo),
    Operator("Pow", _power, since=7),
    Operator("BitShift", _shift),
    Operator("Max", _fold(torch.maximum), since=6),
    Operator("Min", _fold(torch.minimum), since=6),
    Operator("Sum", _fold(torch.add), since=6),
    Operator("Mean", _mean, since=6),
    Operator("Clip", _clip, since=6, known=(1, 2)),
    Operator("Cast", _cast, since=6),
    Operator("CastLike", _cast),
    Operator("IsInf", _is_infinite),
    Operator("Where", _where),
)
