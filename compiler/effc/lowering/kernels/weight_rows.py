"""Products of a few rows with a stored matrix, whose rows are read one after another: all of them, or only those with an input.

    result[t, n] = sum over k of left[t, k] * right[k, n]

One pass over the left operand (with whatever is fused in front of it) keeps its values and, where zeros are skipped, writes down which k
are not zero in any of the rows t: the index list. Then panels of columns are shared out over the threads, and each reads its part of the
listed rows of `right`, several at a time, into sums that stay in the first-level cache. `right` lies as [k][n], so that a row that is
skipped is never read: a whole run of cache lines less from memory, which is what the time of such a product goes into.

Where no element is zero the same sums are added in another order than in `matmul`, and nothing else changes. NaN is not zero. Of weights
that are infinite or NaN a place that is zero in all rows makes nothing, where the full product makes NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from effc.lowering.kernels.code import (
    allocated,
    choose,
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
from effc.lowering.kernels.fused import Fused
from effc.lowering.kernels.implementation import Implementation
from effc.lowering.kernels.index_list import index_list, kept_rows, row_places
from effc.lowering.kernels.packing import Packed
from effc.lowering.kernels.products import PARALLEL_MACS, vectors
from effc.lowering.kernels.tiles import lanes_of
from effc.targets import Target

__all__ = ["WeightRows"]

_AT_ONCE = 8  # rows of a pass: sums are loaded and stored once for all of them
_TASKS = 4  # panels are a multiple of it where there are as many
_PANEL, _LEAST = 1024, 256  # columns of a panel: about, and at least


class WeightRows:
    """The kernel.

    Args:
        fused: its anchor is a product of float32 whose right operand is the stored argument number `argument`, with two axes.
        skip: whether rows of zero inputs are left out.
    """

    def __init__(self, fused: Fused, argument: int, target: Target, *, skip: bool) -> None:
        self.fused, self.argument, self.skip = fused, argument, skip
        self.left, self.right = fused.reads()
        *self.outer, self.columns, self.depth = fused.anchor.extents
        self.rows = math.prod(self.outer)
        self.lanes = lanes_of(target, "float32")
        self.epilogue = fused.epilogue()
        self.panel = _panel(self.columns, self.lanes)

    def implementation(self, family: str, note: str) -> Implementation:
        from tvm import tirx

        panels = -(-self.columns // self.panel)
        self.values = tirx.decl_buffer((self.rows, self.depth), "float32", name="values")
        self.indices = tirx.decl_buffer((self.depth,), "int32", name="indices")
        self.sums = tirx.decl_buffer((self.rows, panels * self.panel), "float32", name="sums")
        self.count = local(1, "count", "int32")
        spread = parallel if panels > 1 and self.rows * self.columns * self.depth >= PARALLEL_MACS else loop
        rest = self.columns % self.panel

        def task(number: Any) -> Any:
            if rest == 0:
                return self._panel_of(number, self.panel)
            if panels == 1:
                return self._panel_of(number, rest)
            return choose(number == panels - 1, self._panel_of(number, rest), self._panel_of(number, self.panel))

        body = kept_rows(self.fused, self.left, self.outer, self.values, self.lanes)
        body += [index_list(self.values, self.indices, self.count)] if self.skip else []
        body.append(spread(panels, task))
        kept = [self.values, self.sums, *((self.indices, self.count) if self.skip else ())]
        function = flat_function(self.fused.arguments, allocated(kept, body))
        return Implementation(function, family, {self.argument: Packed((0, 1))}, note)

    def _place(self, number: Any) -> Any:
        """The row of the weights with this number among those that are read."""
        return load(self.indices, [number]) if self.skip else number

    def _panel_of(self, number: Any, width: int) -> Any:
        """All rows of the result in one panel of columns."""
        start = number * self.panel

        def of_all(body: Callable[[int, Any, int], Any]) -> list[Any]:
            return [one for row in range(self.rows) for one in vectors(width, self.lanes, partial(body, row), start)]

        def cleared(row: int, first: Any, size: int) -> Any:
            return vector(size, lambda lane: store(self.sums, floats(0.0), [row, first + lane]))

        def stored(row: int, first: Any, size: int) -> Any:
            return vector(
                size, lambda lane: self.epilogue.store([*row_places(self.outer, row), first + lane], load(self.sums, [row, first + lane]))
            )

        def added(group: Any, at_once: int) -> Any:
            places = [local(1, f"place{i}", "int32") for i in range(at_once)]
            factors = [[local(1, f"factor{row}_{i}") for i in range(at_once)] for row in range(self.rows)]
            known = [store(place, self._place(group + i), [0]) for i, place in enumerate(places)]
            known += [
                store(factor, load(self.values, [row, load(places[i], [0])]), [0])
                for row, of_row in enumerate(factors)
                for i, factor in enumerate(of_row)
            ]

            def products(first: Any, size: int) -> Any:
                weights = [local(size, f"weights{i}") for i in range(at_once)]

                def read(i: int) -> Any:
                    place = load(places[i], [0])
                    return vector(size, lambda lane: store(weights[i], single(self.fused.value(self.right, [place, first + lane])), [lane]))

                def summed(row: int) -> Any:
                    def lane_sum(lane: Any) -> Any:
                        total = load(self.sums, [row, first + lane])
                        for factor, weight in zip(factors[row], weights, strict=True):
                            total = total + load(factor, [0]) * load(weight, [lane])
                        return store(self.sums, total, [row, first + lane])

                    return vector(size, lane_sum)

                return allocated(weights, [*(read(i) for i in range(at_once)), *(summed(row) for row in range(self.rows))])

            return allocated(
                [*places, *(one for of_row in factors for one in of_row)], [*known, *vectors(width, self.lanes, products, start)]
            )

        count = load(self.count, [0]) if self.skip else self.depth
        groups = count // _AT_ONCE
        return sequence(
            [
                *of_all(cleared),
                loop(groups, lambda group: added(group * _AT_ONCE, _AT_ONCE), name="group"),
                loop(count - groups * _AT_ONCE, lambda one: added(groups * _AT_ONCE + one, 1), name="one"),
                *of_all(stored),
            ]
        )


def _panel(columns: int, lanes: int) -> int:
    """Columns of a panel: several panels, for threads to share evenly, but no rows so short that their first bytes are waited for."""
    panels = max(1, min(_TASKS * -(-columns // (_TASKS * _PANEL)), columns // _LEAST))
    whole = -(-columns // panels)
    return max(lanes, -(-whole // lanes) * lanes)
