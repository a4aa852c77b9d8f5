"""Products of a few rows whose results are multiplied by something that is often zero: only the others are computed.

    result[t, n] = (sum over k of left[t, k] * right[k, n]) * mask[t, n]

The gate of a gated layer, or a predictor, is known before the product that it multiplies. One pass over the mask stores what a result is
without its sum (zero, where the mask is), and lists the n that are not zero in any of the rows t. Their sums are dot products: `right`
lies as [n][k], so that each is one run of memory, and those of the others are never read. Several are under way at once.

A result whose mask is zero in all rows is zero even where its sum would have been infinite or NaN. NaN in the mask is not zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from effc.cost.skipping import skipping
from effc.lowering.kernels.code import (
    allocated,
    flat_function,
    floats,
    load,
    local,
    loop,
    parallel,
    sequence,
    single,
    store,
    vector,
)
from effc.lowering.kernels.fused import Epilogue, Fused
from effc.lowering.kernels.implementation import Implementation
from effc.lowering.kernels.index_list import index_list, kept_rows, row_places
from effc.lowering.kernels.inlining import rebuilt, same
from effc.lowering.kernels.lanes import across
from effc.lowering.kernels.packing import Packed
from effc.lowering.kernels.products import PARALLEL_MACS, vectors
from effc.lowering.kernels.tiles import lanes_of
from effc.runtime.tensors import dtype_named
from effc.targets import Target

__all__ = ["factor_of", "product"]

_AT_ONCE = 4  # dot products under way
_TASKS = 8


def product(fused: Fused, fixed: Sequence[bool], target: Target) -> Implementation | None:
    """The product of a function; None where nothing multiplies it, or where the dense one is predicted to be faster."""
    if fused.kind != "matmul" or str(fused.anchor.buffer.dtype) != "float32" or len(fused.reads()) != 2:
        return None
    right, known = fused.reads()[1], fused.known
    argument = fused.argument(right)
    if known is None or known.mask is None or argument is None or not fixed[argument] or len(right.shape) != 2:
        return None
    epilogue = fused.epilogue()
    mask = factor_of(epilogue.expression, epilogue.sum)
    if mask is None:
        return None
    *batch, rows, columns, depth = fused.anchor.extents
    size = {"rows": math.prod(batch) * rows, "depth": columns, "columns": depth}
    itemsize = dtype_named(str(right.dtype)).itemsize
    decision = skipping(target, **size, density=known.mask, stored=known.stored, itemsize=itemsize)
    if not decision.pays:
        fused.reasons.append(f"of its mask, {decision.why}")
        return None
    return _Masked(fused, argument, target, epilogue, mask).implementation(f"of its mask, {decision.why}")


def factor_of(expression: Any, total: Any) -> Any:
    """What makes an expression of the sum `total` zero where it is zero itself; None where there is no such factor."""
    from tvm import tirx

    if isinstance(expression, tirx.Let):
        if not _holds(expression.value, total):
            found = factor_of(expression.body, total)
            return None if found is None else tirx.Let(expression.var, expression.value, found)
        return factor_of(expression.value, total) if _vanishes(expression.body, expression.var) else None
    if isinstance(expression, tirx.Select):  # such as a threshold: of zero it makes zero
        chosen = [one for one in (expression.true_value, expression.false_value) if not _is_zero(one)]
        return factor_of(chosen[0], total) if len(chosen) == 1 else None
    if not isinstance(expression, tirx.Mul):
        return None
    inner = [one for one in (expression.a, expression.b) if _holds(one, total)]
    if len(inner) != 1:
        return None
    own = expression.b if inner[0].same_as(expression.a) else expression.a
    deeper = factor_of(inner[0], total)
    return own if deeper is None else own * deeper


def _vanishes(expression: Any, variable: Any) -> bool:
    """Whether an expression is zero where the variable is, as far as is easily seen."""
    from tvm import tirx

    if isinstance(expression, tirx.Select):
        return all(_vanishes(one, variable) for one in (expression.true_value, expression.false_value))
    if isinstance(expression, tirx.Mul):
        return _vanishes(expression.a, variable) or _vanishes(expression.b, variable)
    return _is_zero(expression) or bool(expression.same_as(variable))


def _is_zero(expression: Any) -> bool:
    from tvm import tirx

    return isinstance(expression, tirx.FloatImm) and float(expression) == 0.0


def _holds(expression: Any, variable: Any) -> bool:
    from tvm import tirx

    found = rebuilt(expression, {variable: floats(0.0)}, tirx.BufferLoad)
    return not same(found, expression)


class _Masked:
    def __init__(self, fused: Fused, argument: int, target: Target, epilogue: Epilogue, mask: Any) -> None:
        from tvm import tirx

        self.fused, self.argument, self.epilogue, self.mask = fused, argument, epilogue, mask
        self.left, self.right = fused.reads()
        *self.outer, self.columns, self.depth = fused.anchor.extents
        self.rows = math.prod(self.outer)
        self.lanes = lanes_of(target, "float32")
        self.packed = tirx.decl_buffer((self.columns, self.depth), str(self.right.dtype), name="packed")
        self.values = tirx.decl_buffer((self.rows, self.depth), "float32", name="values")
        self.masks = tirx.decl_buffer((self.rows, self.columns), "float32", name="masks")
        self.indices = tirx.decl_buffer((self.columns,), "int32", name="indices")
        self.count = local(1, "count", "int32")

    def implementation(self, note: str) -> Implementation:
        def task(number: Any) -> Any:
            first = load(self.count, [0]) * number // _TASKS
            last = load(self.count, [0]) * (number + 1) // _TASKS
            groups = (last - first) // _AT_ONCE
            return sequence(
                [
                    loop(groups, lambda group: self._dots(first + group * _AT_ONCE, _AT_ONCE), name="group"),
                    loop(last - first - groups * _AT_ONCE, lambda one: self._dots(first + groups * _AT_ONCE + one, 1), name="one"),
                ]
            )

        spread = parallel if self.rows * self.columns * self.depth >= PARALLEL_MACS else loop
        body = kept_rows(self.fused, self.left, self.outer, self.values, self.lanes)
        body += [*self._without_sums(), index_list(self.masks, self.indices, self.count), spread(_TASKS, task)]
        arguments = [self.packed if index == self.argument else buffer for index, buffer in enumerate(self.fused.arguments)]
        kept = allocated([self.values, self.masks, self.indices, self.count], body)
        return Implementation(flat_function(arguments, kept), "masked", {self.argument: Packed((1, 0))}, note)

    def _without_sums(self) -> list[Any]:
        """The mask, and every result as it is where that is zero."""

        def element(row: int, first: Any, size: int) -> Any:
            def of(lane: Any) -> Any:
                place = [*row_places(self.outer, row), first + lane]
                return sequence(
                    [store(self.masks, self.epilogue.at(self.mask, place), [row, first + lane]), self.epilogue.store(place, floats(0.0))]
                )

            return vector(size, of)

        return [one for row in range(self.rows) for one in vectors(self.columns, self.lanes, partial(element, row))]

    def _dots(self, first: Any, at_once: int) -> Any:
        """The results of some of the listed columns, for all rows."""
        columns = [local(1, f"column{i}", "int32") for i in range(at_once)]
        sums = [[local(self.lanes, f"sums{row}_{i}") for i in range(at_once)] for row in range(self.rows)]
        flat = [(row, i, one) for row, of_row in enumerate(sums) for i, one in enumerate(of_row)]
        body = [store(column, load(self.indices, [first + i]), [0]) for i, column in enumerate(columns)]

        def cleared(one: Any) -> Any:
            return vector(self.lanes, lambda lane: store(one, floats(0.0), [lane]))

        body += [cleared(one) for *_, one in flat]

        def added(start: Any, size: int) -> Any:
            def add(row: int, i: int, one: Any) -> Any:
                def lane_sum(lane: Any) -> Any:
                    weight = single(load(self.packed, [load(columns[i], [0]), start + lane]))
                    return store(one, load(one, [lane]) + load(self.values, [row, start + lane]) * weight, [lane])

                return vector(size, lane_sum)

            return sequence([add(*each) for each in flat])

        body += vectors(self.depth, self.lanes, added)
        for row, i, one in flat:
            body.append(across(one, self.lanes, lambda a, b: a + b))
            body.append(self.epilogue.store([*row_places(self.outer, row), load(columns[i], [0])], load(one, [0])))
        return allocated([*columns, *(one for *_, one in flat)], body)
