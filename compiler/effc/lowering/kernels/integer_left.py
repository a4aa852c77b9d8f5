"""The left operand of an integer product, as a vector instruction wants it: padded, of its type, readable a few elements beyond its end.

Where bytes must have the other sign, 128 is added to (or taken from) them and their zero point; a form that takes 16 bits gets them
centred. Padding stands for the real number 0. Where an operand is all that already, it is read where it lies, else copied first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from effc.lowering.kernels.code import choose, integer, load, loop, parallel, sequence, store, vector
from effc.lowering.kernels.integer_dots import Dot
from effc.lowering.kernels.integer_vectors import only, vector_load
from effc.lowering.kernels.products import pieces

__all__ = ["Left", "left_operand", "with_padding"]

_PARALLEL_ELEMENTS = 1 << 18  # below it, starting threads costs more than it saves


@dataclass(frozen=True)
class Left:
    """An operand that is read by its flat element number.

    Attributes:
        load: the vector of elements from a number on.
        zero: the zero point of what `load` gives, an int32 expression.
        sizes: of all axes, with the padding.
        copies: (buffer, statement) that must run before; None where nothing is copied.
    """

    load: Callable[[Any], Any]
    zero: Any
    sizes: tuple[int, ...]
    copies: tuple[Any, Any] | None


def left_operand(x: Any, zero: Any, dot: Dot, run: int, before: Sequence[int] = (), after: Sequence[int] = ()) -> Left:
    """Make an operand ready.

    Args:
        x: a buffer of bytes, (N, spatial..., C) where it is padded.
        zero: the buffer of its zero point, of one element.
        dot: how it is multiplied.
        run: elements that are read one after another; the last step of `dot` may go beyond them.
        before, after: padding of each spatial axis.
    """
    from tvm import tirx

    kind, point = str(x.dtype), only(zero)
    zero_of = integer(0)
    if not dot.centred:
        zero_of = tirx.Cast("int32", point) + {("int8", "uint8"): 128, ("uint8", "int8"): -128}.get((kind, dot.left), 0)
    if kind == dot.left and not any((*before, *after)) and run % dot.size == 0:
        front = [integer(0)] * (len(x.shape) - 1)
        sizes = tuple(int(size) for size in x.shape)
        return Left(lambda place: vector_load(x, [*front, place], dot.size), zero_of, sizes, None)

    def converted(value: Any) -> Any:
        if dot.centred:
            return tirx.Cast("int16", value) - tirx.Cast("int16", point)
        sign = tirx.const(128 if dot.left == "uint8" else -128, dot.left)
        return value if kind == dot.left else tirx.Cast(dot.left, value) ^ sign

    outside = tirx.const(0, "int16") if dot.centred else converted(point)
    copy, sizes, statement = with_padding(x, converted, outside, before, after, dot.left, dot.lanes * dot.size, dot.size)
    return Left(lambda place: vector_load(copy, [place], dot.size), zero_of, sizes, (copy, statement))


def with_padding(
    x: Any,
    converted: Callable[[Any], Any],
    outside: Any,
    before: Sequence[int],
    after: Sequence[int],
    dtype: str,
    width: int,
    beyond: int = 0,
) -> tuple[Any, tuple[int, ...], Any]:
    """(a flat buffer, its sizes, the statement that fills it) for a buffer with padding around its spatial axes.

    Args:
        converted: what becomes of an element.
        outside: what padding holds.
        dtype, width: type of the elements, and how many make a vector.
        beyond: elements behind the last one that may be read.
    """
    from tvm import tirx

    sizes = [int(size) for size in x.shape]
    axes = len(before)
    padded = [sizes[0], *(b + size + a for b, size, a in zip(before, sizes[1:-1], after, strict=True)), sizes[-1]] if axes else sizes
    copy = tirx.decl_buffer((math.prod(padded) + beyond,), dtype, name="operand")
    return copy, tuple(padded), _copy(x, copy, converted, outside, sizes, padded, before, width)


def _copy(
    x: Any, to: Any, converted: Any, outside: Any, sizes: Sequence[int], padded: Sequence[int], before: Sequence[int], width: int
) -> Any:
    """Every element of the padded operand, rows of the last spatial axis in vectors."""
    from tvm import tirx

    front = [integer(0)] * (len(sizes) - 1)
    spread = parallel if math.prod(padded) >= _PARALLEL_ELEMENTS else loop

    def copied(source: Any, target: Any, count: int) -> Any:
        return _in_vectors(count, width, lambda at: store(to, converted(load(x, [*front, source + at])), [target + at]))

    def filled(target: Any, count: int) -> Any:
        return _in_vectors(count, width, lambda at: store(to, outside, [target + at]))

    if list(padded) == list(sizes):
        total = math.prod(sizes)
        chunks = next((count for count in (16, 8, 4, 2) if total % count == 0), 1) if spread is parallel else 1
        each = total // chunks
        return spread(chunks, lambda chunk: copied(chunk * each, chunk * each, each))
    row, whole = sizes[-2] * sizes[-1], padded[-2] * padded[-1]
    left = before[-1] * sizes[-1]
    right = whole - row - left

    def line(number: Any) -> Any:
        """One row; `number` counts them with the padding."""
        rest, source, step, tests = number, integer(0), 1, []
        for axis in range(len(sizes) - 3, 0, -1):
            place = rest % padded[axis] - before[axis - 1]
            if padded[axis] != sizes[axis]:
                tests += [place >= 0, place < sizes[axis]]
            source, step, rest = source + place * step, step * sizes[axis], rest // padded[axis]
        source = (source + rest * step) * row
        inside = [copied(source, number * whole + left, row)]
        inside += [filled(number * whole, left)] if left else []
        inside += [filled(number * whole + left + row, right)] if right else []
        return choose(tirx.all(*tests) if tests else True, sequence(inside), filled(number * whole, whole))

    return spread(math.prod(padded[:-2]), line)


def _in_vectors(count: int, width: int, body: Callable[[Any], Any]) -> Any:
    """A statement for every number below `count`, in vectors."""
    whole, rest = divmod(count, width)
    statements = [loop(whole, lambda number: vector(width, lambda lane: body(number * width + lane)))] if whole else []

    def piece(first: int, size: int) -> Any:
        return vector(size, lambda lane: body(whole * width + first + lane))

    return sequence([*statements, *(piece(first, size) for first, size in pieces(rest))])
