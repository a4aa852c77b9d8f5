"""Products of a few rows on a device whose results are multiplied by something that is often zero: only the others are computed.

    result[t, n] = (sum over k of left[t, k] * right[k, n]) * mask[t, n]

What it means is what `kernels.masked` means: a result whose mask is zero in all rows is what it is without its sum, and NaN in the mask is
not zero. `right` lies as [n][k], filled up to whole loads of 16 bytes. A block stores its few columns without their sums, lists those whose
mask is not zero, and its warps take the listed ones in turn: each is a run of memory that a warp reads 512 bytes at a time, several loads
under way. The others are not asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from effc.cost.skipping import skipping
from effc.lowering.kernels.code import allocated, flat_function, floats, integer, load, loop, sequence, single, store
from effc.lowering.kernels.cuda.block import Block, across_warp
from effc.lowering.kernels.cuda.code import (
    WARP,
    cleared,
    dynamic_places,
    every,
    launch,
    per_load,
    read,
    registers,
    rolled,
    shared,
    stored_dtype,
    temporary,
    when,
    widened,
)
from effc.lowering.kernels.cuda.compaction import listed
from effc.lowering.kernels.cuda.skipping import stored_right
from effc.lowering.kernels.fused import Epilogue, Fused
from effc.lowering.kernels.implementation import Implementation
from effc.lowering.kernels.masked import factor_of
from effc.lowering.kernels.packing import Packed
from effc.runtime.tensors import dtype_named
from effc.targets import Target

__all__ = ["product"]

_WARPS = 8
_COLUMNS = 32  # of a block; half of them where the columns are few
_BLOCKS = 4  # that many at least for each multiprocessor
_AT_ONCE = 4  # loads of a lane under way for one input; for more, their inputs take the registers
_QUARTER = 4  # floats of a load


def product(fused: Fused, fixed: Sequence[bool], target: Target) -> Implementation | None:
    """The product of a function; None where nothing multiplies it, or where reading all weights is predicted to be faster."""
    argument, known = stored_right(fused, fixed), fused.known
    if argument is None or known is None or known.mask is None:
        return None
    epilogue = fused.epilogue()
    mask = factor_of(epilogue.expression, epilogue.sum)
    if mask is None:
        return None
    *outer, columns, depth = fused.anchor.extents
    size = {"rows": math.prod(outer), "depth": columns, "columns": depth}
    itemsize = dtype_named(str(fused.reads()[1].dtype)).itemsize
    decision = skipping(target, **size, density=known.mask, stored=known.stored, itemsize=itemsize)
    if not decision.pays:
        fused.reasons.append(f"of its mask, {decision.why}")
        return None
    return _Masked(fused, argument, target, epilogue, mask).implementation(f"of its mask, {decision.why}")


class _Masked:
    def __init__(self, fused: Fused, argument: int, target: Target, epilogue: Epilogue, mask: Any) -> None:
        self.fused, self.argument, self.epilogue, self.mask = fused, argument, epilogue, mask
        self.left, self.right = fused.reads()
        *self.outer, self.columns, self.depth = fused.anchor.extents
        self.rows = math.prod(self.outer)
        self.dtype = str(self.right.dtype)
        self.width = per_load(self.dtype)
        self.pieces = -(-self.depth // self.width)
        self.at_once = max(1, _AT_ONCE // self.rows)
        self.each = _COLUMNS if self.columns >= _COLUMNS * _BLOCKS * target.cores else _COLUMNS // 2
        # The left operand is read in whole loads, so it must lie in memory as float32, filled up with zeros like the weights.
        self.as_it_lies = fused.source(self.left) is None and str(self.left.dtype) == "float32" and self.depth % self.width == 0

    def implementation(self, note: str) -> Implementation:
        from tvm import tirx

        self.packed = tirx.decl_buffer((self.columns, self.pieces, self.width), stored_dtype(self.dtype), name="packed")
        self.values = temporary((self.rows, self.pieces * self.width), "values")
        launches = [launch((-(-self.columns // self.each),), WARP * _WARPS, lambda at, thread: self._columns(at[0], thread))]
        if not self.as_it_lies:
            wide = self.pieces * self.width
            launches.insert(
                0, launch((-(-wide // (WARP * _WARPS)), self.rows), WARP * _WARPS, lambda at, thread: self._kept(at[0], at[1], thread))
            )
        arguments = [self.packed if index == self.argument else buffer for index, buffer in enumerate(self.fused.arguments)]
        function = flat_function(arguments, allocated([] if self.as_it_lies else [self.values], launches))
        return Implementation(function, "masked", {self.argument: Packed((1, 0), ((0, self.width),))}, note)

    def _own(self, row: Any) -> list[Any]:
        """The place of a row in the outer axes of the left operand."""
        place = dynamic_places(self.outer, row)
        sizes = [int(size) for size in self.left.shape[:-1]]
        return [integer(0) if size == 1 else one for size, one in zip(sizes, place[len(place) - len(sizes) :], strict=True)]

    def _kept(self, part: Any, row: Any, thread: Any) -> Any:
        """One element of the left operand, or a zero behind its end."""
        from tvm import tirx

        k = part * (WARP * _WARPS) + thread
        inside = single(self.fused.value(self.left, [*self._own(row), k]))
        value = inside if self.depth == self.pieces * self.width else tirx.if_then_else(k < self.depth, inside, floats(0.0))
        kept = store(self.values, value, [row, k])
        return kept if self.pieces * self.width % (WARP * _WARPS) == 0 else when(k < self.pieces * self.width, kept)

    def _columns(self, part: Any, thread: Any) -> Any:
        """The results of a block's columns."""
        block = Block(WARP * _WARPS, thread)
        places = shared((self.each,), "places", "int32")
        count = registers(1, "count", "int32")
        start = part * self.each

        def mask(row: int) -> Any:
            return lambda column: self.epilogue.at(self.mask, [*dynamic_places(self.outer, integer(row)), column])

        def bare(turn: Any) -> Any:
            """Results without their sums."""
            number = turn * block.threads + thread
            row, column = number // self.each, start + number % self.each
            stored = self.epilogue.store([*dynamic_places(self.outer, row), column], floats(0.0))
            return when(_all(number < self.rows * self.each, column < self.columns), stored)

        def turn(number: Any) -> Any:
            return self._dot(block, load(places, [number * _WARPS + block.warp]))

        turns = (load(count, [0]) - block.warp + (_WARPS - 1)) // _WARPS
        listing = listed(block, self.each, start, self.columns, [mask(row) for row in range(self.rows)], places, None, count)
        bares = loop(-(-self.rows * self.each // block.threads), bare, name="turn")
        return allocated([places, count], [bares, listing, rolled(turns, turn)])

    def _dot(self, block: Block, column: Any) -> Any:
        """One column of all rows by one warp."""
        sums = [registers(1, f"sum{row}") for row in range(self.rows)]
        wide = WARP * self.at_once
        whole = self.pieces // wide

        def group(number: Any) -> Any:
            return self._products(column, [number * wide + one * WARP + block.lane for one in range(self.at_once)], sums)

        body = [*(cleared(one) for one in sums), rolled(whole, group)]
        rest = [whole * wide + one * WARP + block.lane for one in range(-(-(self.pieces - whole * wide) // WARP))]
        body.append(self._products(column, rest, sums, partial=self.pieces % WARP != 0))
        for row, one in enumerate(sums):
            result = self.epilogue.store([*dynamic_places(self.outer, integer(row)), column], load(one, [0]))
            body += [across_warp(one, lambda a, b: a + b), when(block.lane.equal(0), result)]
        return allocated(sums, body)

    def _products(self, column: Any, pieces: list[Any], sums: list[Any], partial: bool = False) -> Any:
        """Some pieces' products added to the sums: all are asked for before the first is used.

        `partial`: the last is none for some lanes.
        """
        weights = [registers(self.width, f"weights{number}", stored_dtype(self.dtype)) for number, _ in enumerate(pieces)]
        inside = [piece < self.pieces if partial and number == len(pieces) - 1 else True for number, piece in enumerate(pieces)]

        def guarded(condition: Any, statement: Any) -> Any:
            return statement if condition is True else when(condition, statement)

        def added(piece: Any, held: Any) -> Any:
            inputs = [registers(_QUARTER, f"inputs{row}") for row in range(self.rows)]

            def quarter(part: int) -> Any:
                first = piece * self.width + part * _QUARTER

                def of_row(row: int) -> Any:
                    one, own = sums[row], inputs[row]

                    def product(lane: int) -> Any:
                        weight = widened(load(held, [part * _QUARTER + lane]), self.dtype)
                        return store(one, load(one, [0]) + load(own, [lane]) * weight, [0])

                    buffer, place = (self.left, self._own(integer(row))) if self.as_it_lies else (self.values, [integer(row)])
                    return sequence([read(buffer, [*place, first], own), every(_QUARTER, product)])

                return every(self.rows, of_row)

            return allocated(inputs, [every(self.width // _QUARTER, quarter)])

        triples = list(zip(pieces, weights, inside, strict=True))
        asked = [guarded(ok, read(self.packed, [column, piece, integer(0)], held)) for piece, held, ok in triples]
        return allocated(weights, [*asked, *(guarded(ok, added(piece, held)) for piece, held, ok in triples)])


def _all(a: Any, b: Any) -> Any:
    from tvm import tirx

    return tirx.And(a, b)
