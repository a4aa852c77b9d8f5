"""Comparison, logic, selection and operations on bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from effc.frontends.onnx.operators.base import Node, Operator, Unsupported, Value
from effc.frontends.onnx.operators.values import dtype_of, folds, tensor

__all__ = ["OPERATORS"]


def _comparable(value: Value) -> Tensor:
    """torch compares no unsigned integers of more than 8 bits; 64 of them keep their order with the top bit flipped."""
    x = tensor(value)
    if x.dtype in (torch.uint16, torch.uint32):
        return x.to(torch.int64)
    if x.dtype == torch.uint64:
        return x.view(torch.int64) ^ torch.iinfo(torch.int64).min
    return x


def _comparison(in_numpy: Callable[..., Any], function: Callable[..., Tensor]) -> Callable[..., Any]:
    def on_constants(node: Node, a: Any, b: Any) -> Any:
        found = np.asarray(in_numpy(a, b))
        if found.dtype == object:  # comparisons of symbolic sizes
            return np.array([bool(item) for item in found.reshape(-1)], dtype=bool).reshape(found.shape)
        return found

    @folds(on_constants)
    def call(node: Node, a: Value, b: Value) -> Tensor:
        return function(_comparable(a), _comparable(b))

    return call


def _logic(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def call(node: Node, *values: Value) -> Tensor:
        return function(*(tensor(value) for value in values))

    return call


def is_inf(node: Node, x: Value) -> Tensor:
    x = tensor(x)
    found = torch.zeros_like(x, dtype=torch.bool)
    if node.get("detect_positive", 1):
        found = found | (x == float("inf"))
    if node.get("detect_negative", 1):
        found = found | (x == float("-inf"))
    return found


def is_nan(node: Node, x: Value) -> Tensor:
    x = tensor(x)
    return x != x


def _where_constants(node: Node, condition: Any, a: Any, b: Any) -> Any:
    return np.where(condition, a, b)


@folds(_where_constants)
def where(node: Node, condition: Value, a: Value, b: Value) -> Tensor:
    return torch.where(tensor(condition), tensor(a), tensor(b))


def _bitwise(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def call(node: Node, *values: Value) -> Tensor:
        operands = [tensor(value) for value in values]
        dtype = operands[0].dtype
        signed = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}.get(dtype)
        if signed is None:
            return function(*operands)
        return function(*(operand.view(signed) for operand in operands)).view(dtype)

    return call


def bit_shift(node: Node, x: Value, amount: Value) -> Tensor:
    """Shifting right copies in the sign of signed integers. A negative amount, or one of the width or more, leaves only that."""
    x, amount = tensor(x), tensor(amount)
    dtype, bits = x.dtype, x.dtype.itemsize * 8
    left = node.get("direction") == "LEFT"
    wide, by = (t.view(torch.int64) if t.dtype == torch.uint64 else t.to(torch.int64) for t in (x, amount))
    inside = (by >= 0) & (by < bits)
    by = torch.where(inside, by, torch.zeros_like(by))
    if left:
        shifted = wide << by
    elif dtype == torch.uint64:  # int64's shift copies a sign in: clear what it filled
        filled = torch.where(by == 0, torch.full_like(by, -1), (torch.ones_like(by) << (64 - by).clamp(max=63)) - 1)
        shifted = (wide >> by) & filled
    else:
        shifted = wide >> by
    beyond = wide >> 63 if not left and dtype.is_signed else torch.zeros_like(shifted)
    result = torch.where(inside, shifted, beyond)
    return result.view(torch.uint64) if dtype == torch.uint64 else result.to(dtype)


def bit_cast(node: Node, x: Value) -> Tensor:
    x, dtype = tensor(x), dtype_of(int(node.get("to")))
    if dtype.itemsize != x.dtype.itemsize:
        raise Unsupported(f"reinterpreting {x.dtype.itemsize}-byte elements as {dtype.itemsize}-byte ones")
    return x.view(dtype)


OPERATORS = (
    Operator("And", _logic(torch.logical_and), 7),
    Operator("BitCast", bit_cast, 26),
    Operator("BitShift", bit_shift, 11),
    Operator("BitwiseAnd", _bitwise(torch.bitwise_and), 18),
    Operator("BitwiseNot", _bitwise(torch.bitwise_not), 18),
    Operator("BitwiseOr", _bitwise(torch.bitwise_or), 18),
    Operator("BitwiseXor", _bitwise(torch.bitwise_xor), 18),
    Operator("Equal", _comparison(np.equal, torch.eq), 7),
    Operator("Greater", _comparison(np.greater, torch.gt), 7),
    Operator("GreaterOrEqual", _comparison(np.greater_equal, torch.ge), 12),
    Operator("IsInf", is_inf, 10),
    Operator("IsNaN", is_nan, 9),
    Operator("Less", _comparison(np.less, torch.lt), 7),
    Operator("LessOrEqual", _comparison(np.less_equal, torch.le), 12),
    Operator("Not", folds(lambda node, x: np.logical_not(x))(_logic(torch.logical_not)), 1),
    Operator("Or", _logic(torch.logical_or), 7),
    Operator("Where", where, 9),
    Operator("Xor", _logic(torch.logical_xor), 7),
)
