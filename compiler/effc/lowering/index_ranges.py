"""What an integer expression of a lowered function can be, for many iterations at once: arrays of lower and upper ends.

A variable whose ends are the same in an iteration is known there, and so is what is computed from it. What depends on data, or on an
operator that is not listed here, has no range (None). A local buffer of one element is a variable, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from effc.lowering.relax_edit import operator_name

__all__ = ["Range", "Ranges", "Rows", "chosen", "evaluated", "repeated"]


@dataclass(frozen=True)
class Range:
    """Lowest and highest value: a number for all iterations, or an array with one for each."""

    low: Any
    high: Any

    def each(self, change: Callable[[Any], Any]) -> Range:
        """Both ends, changed."""
        return Range(change(self.low), change(self.high))


Ranges = dict[Any, Range | None]
Masks = tuple[Any, Any]  # where a condition may hold, where it may fail: a bool for all iterations, or an array


@dataclass
class Rows:
    """Iterations of the loops around a statement: the ranges of variables, and when it happens in each, most significant first."""

    count: int
    ranges: Ranges
    when: tuple[Any, ...] = ()

    def at(self, *position: int) -> Rows:
        return Rows(self.count, self.ranges, (*self.when, *position))

    def only(self, keep: Any) -> Rows:
        """Those of a mask."""
        keep = np.broadcast_to(keep, (self.count,))
        if bool(keep.all()):
            return Rows(self.count, dict(self.ranges), self.when)
        ranges = {name: None if one is None else one.each(lambda end: _taken(end, keep)) for name, one in self.ranges.items()}
        return Rows(int(keep.sum()), ranges, tuple(_taken(one, keep) for one in self.when))

    def repeated(self, extent: int) -> tuple[Rows, Any]:
        """Each row `extent` times, and the number of the repetition."""
        number = np.tile(np.arange(extent, dtype=np.int64), self.count)
        ranges = {name: None if one is None else one.each(lambda end: repeated(end, extent)) for name, one in self.ranges.items()}
        return Rows(self.count * extent, ranges, tuple(repeated(one, extent) for one in self.when)), number


def _taken(value: Any, keep: Any) -> Any:
    return value[keep] if isinstance(value, np.ndarray) else value


def repeated(value: Any, extent: int) -> Any:
    """Each element of an array so many times; a number for all iterations stays one."""
    return np.repeat(value, extent) if isinstance(value, np.ndarray) else value


def evaluated(node: Any, ranges: Mapping[Any, Range | None]) -> Range | None:
    """The range of an integer expression, from those of its variables."""
    from tvm import tirx
    from tvm.ir import TensorLoad

    if isinstance(node, tirx.IntImm):
        return Range(int(node.value), int(node.value))
    if isinstance(node, tirx.Var):
        return ranges.get(node)
    if isinstance(node, TensorLoad):
        return ranges.get(node.source)
    if "int" not in str(getattr(node.ty, "dtype", "")):
        return None
    if isinstance(node, tirx.Cast):
        return evaluated(node.value, ranges) if str(node.ty.dtype) in ("int32", "int64") and "int" in str(node.value.ty.dtype) else None
    if isinstance(node, tirx.Select):
        return _either(node.condition, node.true_value, node.false_value, ranges)
    if isinstance(node, tirx.Let):
        return evaluated(node.body, {**ranges, node.var: evaluated(node.value, ranges)})
    name = operator_name(node).rsplit(".", 1)[-1]
    if name in ("likely", "unlikely"):
        return evaluated(node.args[0], ranges)
    if name == "if_then_else":
        return _either(node.args[0], node.args[1], node.args[2], ranges)
    work = _CALLS.get(name) or _NODES.get(type(node).__name__)
    if work is None:
        return None
    first, second = (evaluated(one, ranges) for one in (node.args if name in _CALLS else (node.a, node.b)))
    return None if first is None or second is None else work(first, second)


def chosen(node: Any, ranges: Mapping[Any, Range | None]) -> Masks:
    """Where a condition may hold and where it may fail; both, where that is not known."""
    from tvm import tirx

    kind = type(node).__name__
    if isinstance(node, tirx.IntImm):
        return bool(node.value), not node.value
    if operator_name(node).rsplit(".", 1)[-1] in ("likely", "unlikely"):
        return chosen(node.args[0], ranges)
    if kind == "Not":
        holds, fails = chosen(node.a, ranges)
        return fails, holds
    if kind in ("And", "Or"):
        first, second = chosen(node.a, ranges), chosen(node.b, ranges)
        if kind == "And":
            return np.logical_and(first[0], second[0]), np.logical_or(first[1], second[1])
        return np.logical_or(first[0], second[0]), np.logical_and(first[1], second[1])
    if kind in _COMPARED:
        a, b = evaluated(node.a, ranges), evaluated(node.b, ranges)
        if a is not None and b is not None:
            return _COMPARED[kind](a, b)
    return True, True


def _either(condition: Any, then: Any, otherwise: Any, ranges: Mapping[Any, Range | None]) -> Range | None:
    holds, fails = chosen(condition, ranges)
    first, second = evaluated(then, ranges), evaluated(otherwise, ranges)
    if first is None or second is None:
        return None
    low = np.where(fails, np.where(holds, np.minimum(first.low, second.low), second.low), first.low)
    high = np.where(fails, np.where(holds, np.maximum(first.high, second.high), second.high), first.high)
    return Range(low, high)


def _product(a: Range, b: Range) -> Range:
    corners = (a.low * b.low, a.low * b.high, a.high * b.low, a.high * b.high)
    return Range(
        np.minimum(np.minimum(corners[0], corners[1]), np.minimum(corners[2], corners[3])),
        np.maximum(np.maximum(corners[0], corners[1]), np.maximum(corners[2], corners[3])),
    )


def _constant(value: Range) -> int | None:
    """The number, where a range is one number for all iterations."""
    if np.ndim(value.low) or np.ndim(value.high) or value.low != value.high:
        return None
    return int(value.low)


def _floored(a: Range, b: Range) -> Range | None:
    by = _constant(b)
    return None if by is None or by < 1 else Range(a.low // by, a.high // by)


def _truncated(a: Range, b: Range) -> Range | None:
    """C's division; the same as the floored one of what is not negative."""
    return _floored(a, b) if np.all(np.asarray(a.low) >= 0) else None


def _modulo(a: Range, b: Range) -> Range | None:
    by = _constant(b)
    if by is None or by < 1:
        return None
    within = np.asarray(a.low) // by == np.asarray(a.high) // by
    return Range(np.where(within, np.asarray(a.low) % by, 0), np.where(within, np.asarray(a.high) % by, by - 1))


def _remainder(a: Range, b: Range) -> Range | None:
    return _modulo(a, b) if np.all(np.asarray(a.low) >= 0) else None


def _shifted_left(a: Range, b: Range) -> Range | None:
    by = _constant(b)
    return None if by is None or not 0 <= by < 31 else Range(a.low * (1 << by), a.high * (1 << by))


def _shifted_right(a: Range, b: Range) -> Range | None:
    by = _constant(b)
    return None if by is None or not 0 <= by < 31 else Range(a.low // (1 << by), a.high // (1 << by))


def _equal(a: Range, b: Range) -> Masks:
    known = np.logical_and(np.equal(a.low, a.high), np.equal(b.low, b.high))
    same = np.logical_and(known, np.equal(a.low, b.low))
    return np.logical_and(a.low <= b.high, b.low <= a.high), np.logical_not(same)


_NODES: dict[str, Callable[[Range, Range], Range | None]] = {
    "Add": lambda a, b: Range(a.low + b.low, a.high + b.high),
    "Sub": lambda a, b: Range(a.low - b.high, a.high - b.low),
    "Mul": _product,
    "Min": lambda a, b: Range(np.minimum(a.low, b.low), np.minimum(a.high, b.high)),
    "Max": lambda a, b: Range(np.maximum(a.low, b.low), np.maximum(a.high, b.high)),
    "FloorDiv": _floored,
    "FloorMod": _modulo,
    "Div": _truncated,
    "Mod": _remainder,
    "LShift": _shifted_left,
    "RShift": _shifted_right,
}
_CALLS: dict[str, Callable[[Range, Range], Range | None]] = {"shift_left": _shifted_left, "shift_right": _shifted_right}
_COMPARED: dict[str, Callable[[Range, Range], Masks]] = {
    "LT": lambda a, b: (a.low < b.high, a.high >= b.low),
    "LE": lambda a, b: (a.low <= b.high, a.high > b.low),
    "GT": lambda a, b: (a.high > b.low, a.low <= b.high),
    "GE": lambda a, b: (a.high >= b.low, a.low < b.high),
    "EQ": _equal,
    "NE": lambda a, b: _equal(a, b)[::-1],
}
