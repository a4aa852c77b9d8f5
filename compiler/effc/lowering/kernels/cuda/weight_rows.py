"""Products of a few rows with a stored matrix on a device: its rows are read in the widest loads, all of them or only those with an input.

    result[t, n] = sum over k of left[t, k] * right[k, n]

The matrix lies as [k][n], each row filled up to whole loads of 16 bytes. A block takes a tile of columns, one load wide for each lane of a
warp, and a slice of k. It lists the k of its slice where an input is not zero (in shared memory: no launch of its own, no list in the
device's memory), and its warps share out the listed rows, several at once each, so that many loads are under way. Rows that are not listed
are not asked for: they never leave the device's memory. Then the warps' sums are added in the order of the warps, and a second launch adds
the slices in the order of k and finishes the results. So results have the same bits in every run, which sums by atomic additions would not.

NaN is not zero. Of weights that are infinite or NaN a place that is zero in all rows makes nothing, as in `kernels.weight_rows`.
"""

from __future__ import annotations

import math
from typing import Any

from effc.lowering.kernels.code import allocated, flat_function, floats, integer, load, loop, sequence, single, store, vector
from effc.lowering.kernels.cuda.block import Block
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
    synchronise,
    temporary,
    when,
    widened,
)
from effc.lowering.kernels.cuda.compaction import listed
from effc.lowering.kernels.fused import Fused
from effc.lowering.kernels.implementation import Implementation
from effc.lowering.kernels.packing import Packed
from effc.targets import Target

__all__ = ["MOST_ROWS", "WeightRows"]

MOST_ROWS = 8  # inputs at once: each holds a register for every column of a thread
_WARPS = 8
_BLOCKS = 16  # for each multiprocessor, so that the last ones to end keep few of them waiting
_LEAST, _MOST = 256, 1024  # k of a slice: fewer are not worth a block, more are too many for its shared memory
_AT_ONCE = 8  # rows of the matrix that a warp asks for together, for one input; for more, their sums take the registers


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
        self.epilogue = fused.epilogue()
        self.dtype = str(self.right.dtype)
        self.width = per_load(self.dtype)
        self.pieces = -(-self.columns // self.width)  # loads of a row
        self.tiles = -(-self.pieces // WARP)
        wanted = min(-(-self.depth // _LEAST), -(-_BLOCKS * max(1, target.cores) // self.tiles))
        self.length = -(-self.depth // max(wanted, -(-self.depth // _MOST)))
        self.slices = -(-self.depth // self.length)
        self.at_once = max(1, _AT_ONCE // self.rows)

    def implementation(self, family: str, note: str) -> Implementation:
        from tvm import tirx

        self.packed = tirx.decl_buffer((self.depth, self.pieces, self.width), stored_dtype(self.dtype), name="packed")
        self.parts = temporary((self.slices, self.rows, self.columns), "parts")
        first = launch((self.tiles, self.slices), WARP * _WARPS, lambda at, thread: self._tile(at[0], at[1], thread))
        launches = [first]
        if self.slices > 1:
            second = launch((-(-self.columns // WARP), self.rows), WARP * _WARPS, lambda at, thread: self._added(at[0], at[1], thread))
            launches.append(second)
        arguments = [self.packed if index == self.argument else buffer for index, buffer in enumerate(self.fused.arguments)]
        function = flat_function(arguments, allocated([self.parts] if self.slices > 1 else [], launches))
        return Implementation(function, family, {self.argument: Packed((0, 1), ((1, self.width),))}, note)

    def _tile(self, tile: Any, number: Any, thread: Any) -> Any:
        """One tile of columns over one slice of k."""
        block = Block(WARP * _WARPS, thread)
        places = shared((self.length,), "places", "int32")
        factors = shared((self.rows, self.length), "factors")
        count = registers(1, "count", "int32")
        sums = [registers(self.width, f"sums{row}") for row in range(self.rows)]
        start, piece = number * self.length, tile * WARP + block.lane

        def whole(group: Any) -> Any:
            first = group * (_WARPS * self.at_once) + block.warp * self.at_once
            return self._products(piece, [first + one for one in range(self.at_once)], None, places, factors, sums)

        groups = load(count, [0]) // (_WARPS * self.at_once)
        done = groups * (_WARPS * self.at_once)
        rest = self._products(
            piece, [done + one * _WARPS + block.warp for one in range(self.at_once)], load(count, [0]), places, factors, sums
        )
        products = sequence([rolled(groups, whole), rest])
        inside = True if self.pieces % WARP == 0 else piece < self.pieces
        body = [
            self._inputs(block, start, places, factors, count),
            *(cleared(one) for one in sums),
            products if inside is True else when(inside, products),
            *self._warps_added(block, tile, number, sums),
        ]
        return allocated([places, factors, count, *sums], body)

    def _inputs(self, block: Block, start: Any, places: Any, factors: Any, count: Any) -> Any:
        """The list of a slice; of all its places where none is left out."""
        from tvm import tirx

        values = [self._value(row) for row in range(self.rows)]
        if self.skip:
            return listed(block, self.length, start, self.depth, values, places, factors, count)

        def kept(part: Any) -> Any:
            at = part * block.threads + block.thread
            stored = [store(places, start + at, [at]), *(store(factors, value(start + at), [row, at]) for row, value in enumerate(values))]
            inside = tirx.And(at < self.length, start + at < self.depth)
            return when(inside, sequence(stored))

        size = tirx.min(integer(self.length), self.depth - start)
        parts = -(-self.length // block.threads)
        return sequence([store(count, size, [0]), loop(parts, kept, name="part"), synchronise()])

    def _value(self, row: int) -> Any:
        """The left operand of a row, by k."""
        place = dynamic_places(self.outer, integer(row))
        sizes = [int(size) for size in self.left.shape[:-1]]
        own = [integer(0) if size == 1 else one for size, one in zip(sizes, place[len(place) - len(sizes) :], strict=True)]
        return lambda k: single(self.fused.value(self.left, [*own, k]))

    def _products(self, piece: Any, entries: list[Any], count: Any, places: Any, factors: Any, sums: list[Any]) -> Any:
        """Some listed rows' products added to the sums: all rows are asked for before the first is used.

        `count`: where there may be fewer entries; None: none of these lies behind the last.
        """
        weights = [registers(self.width, f"weights{number}", stored_dtype(self.dtype)) for number, _ in enumerate(entries)]

        def asked(entry: Any, into: Any) -> Any:
            reading = read(self.packed, [load(places, [entry]), piece, integer(0)], into)
            return reading if count is None else when(entry < count, reading)

        def added(entry: Any, held: Any) -> Any:
            def of_row(row: int) -> Any:
                one, factor = sums[row], load(factors, [row, entry])
                return every(
                    self.width, lambda lane: store(one, load(one, [lane]) + factor * widened(load(held, [lane]), self.dtype), [lane])
                )

            rows = every(self.rows, of_row)
            return rows if count is None else when(entry < count, rows)

        pairs = list(zip(entries, weights, strict=True))
        return allocated(weights, [*(asked(*pair) for pair in pairs), *(added(*pair) for pair in pairs)])

    def _warps_added(self, block: Block, tile: Any, number: Any, sums: list[Any]) -> list[Any]:
        """The warps' sums added in their order, and stored: as a slice's part, or as results where there is one slice."""
        wide = WARP * self.width
        held = shared((_WARPS, wide), "held")
        statements: list[Any] = []

        def stored(row: int, one: Any) -> list[Any]:
            def column(part: int) -> Any:
                at = block.thread + part * block.threads
                total: Any = load(held, [0, at])
                for warp in range(1, _WARPS):
                    total = total + load(held, [warp, at])
                place = tile * wide + at
                if self.slices > 1:
                    keep = store(self.parts, total, [number, row, place])
                else:
                    keep = self.epilogue.store([*dynamic_places(self.outer, integer(row)), place], total)
                return (
                    keep if self.columns % wide == 0 and wide % block.threads == 0 else when(_both(at < wide, place < self.columns), keep)
                )

            kept = [synchronise()]  # memory of the lists, or of the row before, may lie here: all have read it
            kept.append(_quarters(self.width, lambda at: store(held, load(one, [at]), [block.warp, block.lane * self.width + at])))
            kept += [synchronise(), *(column(part) for part in range(-(-wide // block.threads)))]
            return kept

        for row, one in enumerate(sums):
            statements += stored(row, one)
        return [allocated([held], statements)]

    def _added(self, tile: Any, row: Any, thread: Any) -> Any:
        """The slices of some columns added: every warp some of them, in order, and then the warps in theirs."""
        block = Block(WARP * _WARPS, thread)
        held, total = shared((_WARPS, WARP), "held"), registers(1, "total")
        column = tile * WARP + block.lane
        turns = -(-self.slices // _WARPS)

        def turn(number: int) -> Any:
            at = number * _WARPS + block.warp
            more = store(total, load(total, [0]) + load(self.parts, [at, row, column]), [0])
            return more if (number + 1) * _WARPS <= self.slices else when(at < self.slices, more)

        reading = every(turns, turn)
        result: Any = load(held, [0, block.lane])
        for warp in range(1, min(_WARPS, self.slices)):
            result = result + load(held, [warp, block.lane])
        finished = self.epilogue.store([*dynamic_places(self.outer, row), column], result)
        inside = column < self.columns
        return allocated(
            [held, total],
            [
                store(total, floats(0.0), [0]),
                when(True if self.columns % WARP == 0 else inside, reading),
                store(held, load(total, [0]), [block.warp, block.lane]),
                synchronise(),
                when(block.warp.equal(0) if self.columns % WARP == 0 else _both(block.warp.equal(0), inside), finished),
            ],
        )


def _quarters(width: int, copied: Any) -> Any:
    """Copies of `width` floats, four at a time, which is one wide store."""
    return every(width // 4, lambda part: vector(4, lambda lane: copied(part * 4 + lane)))


def _both(a: Any, b: Any) -> Any:
    from tvm import tirx

    return tirx.And(a, b)
