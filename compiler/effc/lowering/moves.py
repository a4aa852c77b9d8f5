"""Where the elements of a tensor come from: chains of operators that only move data, read as index arithmetic.

A transformer cuts one projection into queries, keys and values of many heads with a dozen reshapes, transpositions and slices. Followed
back to the projection, all of them are one expression for the place of each element.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from effc.lowering.relax_edit import Main, known_sizes, operator_name

__all__ = ["Source", "groups", "slice_bounds", "sliced", "sources"]

Index = list[Any]
Step = Callable[[Index], Index]


class Source:
    """A tensor that holds the elements of another one.

    Attributes:
        variable: the tensor.
    """

    def __init__(self, variable: Any, steps: Sequence[Step]) -> None:
        self.variable, self._steps = variable, list(steps)

    def place(self, index: Sequence[Any], extents: Sequence[int]) -> Index:
        """The place in `variable` of an element, as simplified expressions of the indices, variables that run from 0 to their extents."""
        import tvm
        from tvm import sym, tirx

        analyzer = sym.Analyzer()
        for one, extent in zip(index, extents, strict=True):
            if isinstance(one, tirx.Var):
                analyzer.bind(one, tvm.ir.Range(0, extent))
        places = list(index)
        for step in self._steps:
            places = [analyzer.simplify(place) if not isinstance(place, int) else place for place in step(places)]
        return places


def sources(variable: Any, main: Main) -> list[Source]:
    """The tensors that a tensor's elements lie in, nearest (itself) first."""
    from tvm import relax

    found = [Source(variable, ())]
    steps: list[Step] = []
    while isinstance(variable, relax.Var) and variable in main.bound:
        move = _move(main.bound[variable], main)
        if move is None:
            break
        variable, step = move
        steps.append(step)
        found.append(Source(variable, steps))
    return [one for one in found if isinstance(one.variable, relax.Var)]


def _move(value: Any, main: Main) -> tuple[Any, Step] | None:
    """The operand and the index map of an expression that only moves data; None for any other."""
    from tvm import relax

    if isinstance(value, relax.Var):
        return value, lambda index: index
    if isinstance(value, relax.TupleGetItem):
        return _part(value, main)
    make = _MOVES.get(operator_name(value))
    given, wanted = (known_sizes(value.args[0]), known_sizes(value)) if make else (None, None)
    if make is None or given is None or wanted is None:
        return None
    step = make(value, given, wanted)
    return None if step is None else (value.args[0], step)


def _permute(call: Any, before: list[int], after: list[int]) -> Step:
    axes = list(reversed(range(len(before)))) if call.attrs.axes is None else [int(axis) % len(before) for axis in call.attrs.axes]
    return lambda index: [index[axes.index(axis)] for axis in range(len(before))]


def _reshape(call: Any, before: list[int], after: list[int]) -> Step:
    """Axes are taken in the smallest groups of equal size, so that only a group's own indices are mixed."""
    matching = groups(before, after)

    def step(index: Index) -> Index:
        from tvm import tirx

        places: Index = [0] * len(before)
        for source, result in matching:
            flat: Any = 0
            for axis in result:
                flat = flat * after[axis] + index[axis]
            for axis in reversed(source[1:]):
                places[axis] = tirx.floormod(flat, before[axis])
                flat = tirx.floordiv(flat, before[axis])
            places[source[0]] = flat
        return places

    return step


def groups(before: list[int], after: list[int]) -> list[tuple[list[int], list[int]]]:
    """(axes before, axes after) with equally many elements; axes of size 1 are in none."""
    left, right = ([axis for axis, size in enumerate(sizes) if size != 1] for sizes in (before, after))
    found = []
    while left:
        source, result = [left.pop(0)], [right.pop(0)]
        while (a := math.prod(before[axis] for axis in source)) != (b := math.prod(after[axis] for axis in result)):
            if a < b:
                source.append(left.pop(0))
            else:
                result.append(right.pop(0))
        found.append((source, result))
    return found


def _broadcast(call: Any, before: list[int], after: list[int]) -> Step:
    def step(index: Index) -> Index:
        own = index[len(index) - len(before) :]
        return [0 if size == 1 else place for size, place in zip(before, own, strict=True)]

    return step


def sliced(call: Any, before: list[int], after: list[int]) -> Step | None:
    """The index map of a slice; None where its steps are not known, or not positive."""
    bounds = slice_bounds(call)
    if bounds is None:
        return None
    return lambda index: [
        place * bounds[axis][1] + bounds[axis][0] if axis in bounds and bounds[axis] != (0, 1) else place
        for axis, place in enumerate(index)
    ]


def slice_bounds(call: Any) -> dict[int, tuple[int, int]] | None:
    """(first, step) of each axis that a slice names; None where they are not known, or a step is not positive."""
    numbers = [_constants(argument) for argument in call.args[1:]]
    sizes = known_sizes(call.args[0])
    if sizes is None or any(one is None for one in numbers) or len(numbers) < 3:
        return None
    axes, begin = numbers[0], numbers[1]
    steps = numbers[3] if len(numbers) > 3 else [1] * len(axes)
    if any(step <= 0 for step in steps):
        return None
    bounds = {}
    for axis, first, step in zip(axes, begin, steps, strict=True):
        size = sizes[axis]
        bounds[axis % len(sizes)] = (min(max(first + size, 0) if first < 0 else first, size), step)
    return bounds


def _constants(argument: Any) -> list[int]:
    """The numbers of a tuple; None where one is not known."""
    from tvm import relax

    try:
        fields = argument.fields if isinstance(argument, relax.Tuple) else argument.values
        return [int(field.value if hasattr(field, "value") else field) for field in fields]
    except (AttributeError, TypeError):
        return None  # type: ignore[return-value]


def _part(value: Any, main: Main) -> tuple[Any, Step] | None:
    """A part of `relax.split`."""
    split = main.bound.get(value.tuple_value)
    if split is None or str(getattr(getattr(split, "op", None), "name", "")) != "relax.split":
        return None
    source = split.args[0]
    axis = int(split.attrs.axis) % len(source.ty.shape)
    number = int(value.index)
    before: list[int] = [int(part.shape[axis]) for part in list(split.ty.fields)[:number]]
    start = sum(before)
    return source, lambda index: [place + start if one == axis else place for one, place in enumerate(index)]


_MOVES: dict[str, Callable[[Any, list[int], list[int]], Step | None]] = {
    "relax.broadcast_to": _broadcast,
    "relax.expand_dims": _reshape,
    "relax.flatten": _reshape,
    "relax.permute_dims": _permute,
    "relax.reshape": _reshape,
    "relax.squeeze": _reshape,
    "relax.strided_slice": sliced,
}
