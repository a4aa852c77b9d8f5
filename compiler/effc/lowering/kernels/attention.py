"""Attention without a tensor of scores in memory: each task takes some queries of one head through scores, softmax and weighted sum.

The keys of a head are laid out first in blocks of columns (block, channel, key of the block), its values in blocks of channels, so that
both products load whole vectors that lie side by side. A task then holds the scores of its queries, a few rows of all keys, in a scratch
buffer of its own that stays in the nearest cache:

    for each block of keys, for each tile of queries:      scores in registers -> scale, mask -> scratch
    for each query:                                        exp(score - largest), and their sum
    for each block of channels, for each tile of queries:  weighted sums in registers -> divided by the sum -> result

Where the mask is causal, keys behind the last query of a tile are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from effc.lowering.kernels.code import allocated, choose, copied, flat_function, floats, integer, load, local, loop, parallel, sequence
from effc.lowering.kernels.code import store, vector
from effc.lowering.kernels.fused import Fused
from effc.lowering.kernels.implementation import Implementation
from effc.lowering.kernels.lanes import across, transposed
from effc.lowering.kernels.products import PARALLEL_MACS, pieces
from effc.lowering.kernels.tiles import candidates, cycles, lanes_of
from effc.lowering.mathematics import exp
from effc.targets import Target

__all__ = ["attention"]

_TOGETHER = 4  # rows of scores whose softmax is computed at once
_TASKS = 32  # each has a scratch buffer; enough for many threads to share evenly


def attention(fused: Fused, fixed: Sequence[bool], target: Target) -> Implementation | None:
    """The attention of a function; None where it is none."""
    return _Attention(fused, target).implementation() if fused.kind == "attention" else None


class _Attention:
    def __init__(self, fused: Fused, target: Target) -> None:
        self.fused, self.target = fused, target
        scores, masked = (next(block for block in fused.blocks if f"effc.{kind}" in block.annotations) for kind in ("scores", "masked"))
        self.scores, self.masked = scores.buffer, masked.buffer
        self.query, self.key = fused.reads(scores)
        self.value = fused.reads()[1]
        self.batch, self.heads, self.queries, self.keys, self.channels = scores.extents
        self.own, self.out = int(self.key.shape[1]), int(self.value.shape[3])  # heads of keys and values, channels of values
        self.axes, self.causal = fused.numbers("axes"), bool(fused.number("causal"))
        self.epilogue = fused.epilogue()
        self.lanes = lanes_of(target, "float32")
        self.rows, key_vectors, out_vectors = self._tile()
        self.key_block, self.out_block = key_vectors * self.lanes, out_vectors * self.lanes
        self.key_blocks, self.out_blocks = -(-self.keys // self.key_block), -(-self.out // self.out_block)
        self.tiles, self.rest = divmod(self.queries, self.rows)  # of a head: whole tiles, queries of the last one
        self.share, self.tasks = self._shares()
        self.units = -(-(self.tiles + (self.rest > 0)) // self.share)  # of a head
        self._buffers()

    def _tile(self) -> tuple[int, int, int]:
        """Rows of a tile of queries, vectors of keys in the first product, vectors of channels in the second."""

        def best(rows: int, outputs: int, depth: int) -> tuple[float, int]:
            possible = [tile for tile in candidates(self.queries, outputs, self.lanes, self.target.registers) if tile.rows == rows]
            if not possible:
                return math.inf, 1
            return min((cycles(tile, self.queries, outputs, depth, self.lanes), tile.vectors) for tile in possible)

        def both(rows: int) -> tuple[float, int, int, int]:
            first, second = best(rows, self.keys, self.channels), best(rows, self.out, self.keys)
            return first[0] + second[0], rows, first[1], second[1]

        _, rows, keys, out = min(both(rows) for rows in range(1, min(self.queries, 30) + 1))
        return -(-self.queries // -(-self.queries // rows)), keys, out

    def _shares(self) -> tuple[int, int]:
        """Tiles of a unit, whose scores fit half of the nearest cache, and tasks, which take units one after another."""
        pairs, tiles = self.batch * self.heads, self.tiles + (self.rest > 0)
        fitting = max(1, self.target.l1 // 2 // (4 * self.keys * self.rows))
        if pairs * self.queries * self.keys * (self.channels + self.out) < PARALLEL_MACS:
            return min(tiles, fitting), 1
        share = max(1, min(tiles, fitting, tiles * pairs // _TASKS))
        return share, min(_TASKS, pairs * -(-tiles // share))

    def _buffers(self) -> None:
        from tvm import tirx

        width = -(-self.keys // self.lanes) * self.lanes
        width += self.lanes if width % 256 == 0 else 0  # rows would share their places in the cache
        pairs = self.batch * self.own
        shapes = {
            "keys": (pairs, self.key_blocks, self.channels, self.key_block),
            "values": (pairs, self.out_blocks, self.keys, self.out_block),
            "scratch": (self.tasks, self.share * self.rows, width),
            "factors": (self.tasks, self.share * self.rows),
        }
        self.packed_keys, self.packed_values, self.scratch, self.factors = (
            tirx.decl_buffer(shape, "float32", name=name) for name, shape in shapes.items()
        )

    def implementation(self) -> Implementation:
        total = self.batch * self.heads * self.units

        def task(number: Any) -> Any:
            if self.tasks == 1:
                return loop(total, lambda unit: self._unit(integer(0), unit), name="unit")
            first = number * total // self.tasks
            return loop((number + 1) * total // self.tasks - first, lambda unit: self._unit(number, unit), start=first, name="unit")

        spread = parallel if self.tasks > 1 else loop
        packs = self.batch * self.own * self.key_blocks
        body = [spread(packs, self._pack), spread(self.tasks, task)]
        buffers = [self.packed_keys, self.packed_values, self.scratch, self.factors]
        return Implementation(flat_function(self.fused.arguments, allocated(buffers, body)), "attention")

    # ---- keys and values -----------------------------------------------------------------------------------------------------

    def _pack(self, number: Any) -> Any:
        """A block of keys of one head, and the values of the same positions."""
        # Head after head of the same positions: projections hold them side by side.
        batch, block, head = number // (self.own * self.key_blocks), number // self.own % self.key_blocks, number % self.own
        pair = batch * self.own + head
        start = block * self.key_block

        def some(count: int) -> Any:
            def value(position: Any) -> Any:
                return sequence([self._pack_value(pair, batch, head, start + position, number) for number in range(self.out_blocks)])

            return sequence([*self._pack_keys(pair, batch, head, block, count), loop(count, value, name="position")])

        rest = self.keys % self.key_block
        if not rest:
            return some(self.key_block)
        return choose(self.key_blocks == 1 or block == self.key_blocks - 1, some(rest), some(self.key_block))

    def _pack_keys(self, pair: Any, batch: Any, head: Any, block: Any, count: int) -> list[Any]:
        """A block of keys, channels first; behind the last key, it is repeated."""
        from tvm import tirx

        lanes, start = self.lanes, block * self.key_block
        whole = self.channels // lanes

        def key(lane: Any, channel: Any) -> Any:
            position = start + lane
            if count % lanes:
                position = tirx.min(position, integer(self.keys - 1))
            return self.fused.value(self.key, [batch, head, position, channel])

        def square(at: Any, first: Any) -> Any:
            return transposed(
                lanes,
                lambda row, lane: key(at + row, first + lane),
                lambda row, lane, value: store(self.packed_keys, value, [pair, block, first + row, at + lane]),
            )

        def left(at: Any) -> Any:
            """Channels that fill no vector."""

            def column(channel: Any) -> Any:
                return loop(lanes, lambda lane: store(self.packed_keys, key(at + lane, channel), [pair, block, channel, at + lane]))

            return loop(self.channels - whole * lanes, column, start=whole * lanes, name="channel")

        def group(number: Any) -> Any:
            at = number * lanes
            return sequence(
                [
                    *([loop(whole, lambda part: square(at, part * lanes), name="part")] if whole else []),
                    *([left(at)] if self.channels % lanes else []),
                ]
            )

        return [loop(-(-count // lanes), group, name="group")]

    def _pack_value(self, pair: Any, batch: Any, head: Any, position: Any, number: int) -> Any:
        """One block of channels of one position; lanes behind the last channel are 0."""
        count = min(self.out_block, self.out - number * self.out_block)

        def copy(lane: Any) -> Any:
            return self.fused.value(self.value, [batch, head, position, number * self.out_block + lane])

        def parts(first: int, count: int, value: Callable[[Any], Any]) -> list[Any]:
            return [
                vector(size, lambda lane, at=first + at: store(self.packed_values, value(at + lane), [pair, number, position, at + lane]))
                for at, size in _vectors(count, self.lanes)
            ]

        return sequence([*parts(0, count, copy), *parts(count, self.out_block - count, lambda lane: floats(0.0))])

    # ---- queries -------------------------------------------------------------------------------------------------------------

    def _unit(self, task: Any, unit: Any) -> Any:
        """Some tiles of queries of one head."""
        from tvm import tirx

        pair, group = unit // self.units, unit % self.units
        batch, head = pair // self.heads, pair % self.heads
        source = batch * self.own + head // (self.heads // self.own)
        first = group * self.share  # tile
        whole = self.share if self.tiles % self.share == 0 and not self.rest else tirx.min(integer(self.share), self.tiles - first)
        last = group == self.units - 1 if self.units > 1 else True

        def tiles(body: Callable[[Any, int], Any]) -> Any:
            """For each tile: its first query within the unit, and how many there are."""
            found = [loop(whole, lambda tile: body(tile * self.rows, self.rows), name="tile")] if self.tiles else []
            if self.rest:
                found.append(choose(last, body(whole * self.rows if self.tiles else integer(0), self.rest), tirx.Evaluate(integer(0))))
            return sequence(found)

        def end(query: Any, rows: int) -> Any:
            """The keys that some queries look at."""
            return tirx.min(integer(self.keys), first * self.rows + query + rows) if self.causal else self.keys

        blocks: Any = self.key_blocks
        if self.causal:  # up to the last query
            blocks = (tirx.min(integer(self.keys), (first + self.share) * self.rows) + self.key_block - 1) // self.key_block

        def scored(block: Any) -> Any:
            def of(count: int) -> Any:
                return tiles(lambda query, rows: self._scores(task, batch, head, source, first * self.rows, query, rows, block, count))

            rest = self.keys % self.key_block
            if not rest:
                return of(self.key_block)
            return choose(self.key_blocks == 1 or block == self.key_blocks - 1, of(rest), of(self.key_block))

        def softmax(query: Any, rows: int) -> Any:
            vectors: Any = -(-self.keys // self.lanes)
            if self.causal:
                vectors = tirx.min(integer(vectors), blocks * (self.key_block // self.lanes))
            groups, rest = divmod(rows, _TOGETHER)
            some = [loop(groups, lambda group: self._softmax(task, query + group * _TOGETHER, _TOGETHER, vectors), name="group")]
            last = [self._softmax(task, query + groups * _TOGETHER, rest, vectors)] if rest else []
            return sequence([*(some if groups else []), *last])

        def summed(query: Any, rows: int) -> Any:
            return sequence(
                [
                    self._weighted(task, batch, head, source, first * self.rows, query, rows, end(query, rows), number)
                    for number in range(self.out_blocks)
                ]
            )

        return sequence([loop(blocks, scored, name="block"), tiles(softmax), tiles(summed)])

    def _scores(
        self, task: Any, batch: Any, head: Any, source: Any, start: Any, query: Any, rows: int, block: Any, count: int
    ) -> Any:
        """One tile of scores into the scratch buffer; behind the last key they are minus infinity."""

        def masked(row: int, lane: Any, value: Any) -> Any:
            column = block * self.key_block + lane
            score = self.fused.value(self.masked, [batch, head, start + query + row, column], {self.scores: lambda places: value})
            return store(self.scratch, score, [task, query + row, column])

        def never(row: int, lane: Any) -> Any:
            return store(self.scratch, floats(-math.inf), [task, query + row, block * self.key_block + lane])

        return self._tile_of(
            rows,
            count,
            self.channels,
            lambda row, depth: self.fused.value(self.query, [batch, head, start + query + row, depth]),
            lambda depth, lane: load(self.packed_keys, [source, block, depth, lane]),
            masked,
            never,
        )

    def _softmax(self, task: Any, query: Any, rows: int, vectors: Any) -> Any:
        """exp(score - largest) of some rows, in place, and one over their sums; together, because each step waits for the one before."""
        from tvm import tirx

        lanes = self.lanes
        largest, total = ([local(lanes, f"{name}{row}") for row in range(rows)] for name in ("largest", "total"))

        def place(row: int, number: Any, lane: Any) -> list[Any]:
            return [task, query + row, number * lanes + lane]

        def larger(row: int, number: Any, lane: Any) -> Any:
            score, known = load(self.scratch, place(row, number, lane)), load(largest[row], [lane])
            return store(largest[row], tirx.Select(score > known, score, known), [lane])

        def raised(number: Any) -> Any:
            values = [local(lanes, f"value{row}") for row in range(rows)]

            def power(row: int, lane: Any) -> Any:
                return store(values[row], exp(load(self.scratch, place(row, number, lane)) - load(largest[row], [0])), [lane])

            def add(row: int, lane: Any) -> Any:
                return store(total[row], load(total[row], [lane]) + load(values[row], [lane]), [lane])

            def put(row: int, lane: Any) -> Any:
                return store(self.scratch, load(values[row], [lane]), place(row, number, lane))

            return allocated(values, [vector(lanes, lambda lane, row=row: step(row, lane)) for row in range(rows) for step in (power, add, put)])

        def finite(value: Any) -> Any:
            """Where nothing may be looked at, 0 is subtracted: all weights are 0 then."""
            return tirx.Select(value == floats(-math.inf), floats(0.0), value)

        def each(statement: Callable[[int], Any]) -> Any:
            return sequence([statement(row) for row in range(rows)])

        def factor(row: int) -> Any:
            sum_ = load(total[row], [0])
            return store(self.factors, floats(1.0) / tirx.Select(sum_ == floats(0.0), floats(1.0), sum_), [task, query + row])

        return allocated(
            [*largest, *total],
            [
                each(lambda row: vector(lanes, lambda lane: store(largest[row], floats(-math.inf), [lane]))),
                loop(vectors, lambda number: each(lambda row: vector(lanes, lambda lane: larger(row, number, lane))), name="vector"),
                each(lambda row: across(largest[row], lanes, lambda a, b: tirx.Select(a > b, a, b))),
                each(lambda row: store(largest[row], finite(load(largest[row], [0])), [0])),
                each(lambda row: vector(lanes, lambda lane: store(total[row], floats(0.0), [lane]))),
                loop(vectors, raised, name="vector"),
                each(lambda row: across(total[row], lanes, lambda a, b: a + b)),
                each(factor),
            ],
        )

    def _weighted(
        self, task: Any, batch: Any, head: Any, source: Any, start: Any, query: Any, rows: int, depth: Any, number: int
    ) -> Any:
        """One tile of results."""

        def result(row: int, lane: Any, value: Any) -> Any:
            position = [batch, start + query + row, head, number * self.out_block + lane]
            return self.epilogue.store([position[axis] for axis in self.axes], value * load(self.factors, [task, query + row]))

        return self._tile_of(
            rows,
            min(self.out_block, self.out - number * self.out_block),
            depth,
            lambda row, depth: load(self.scratch, [task, query + row, depth]),
            lambda depth, lane: load(self.packed_values, [source, number, depth, lane]),
            result,
            None,
        )

    def _tile_of(
        self,
        rows: int,
        width: int,
        depth: Any,
        left: Callable[[int, Any], Any],
        right: Callable[[Any, Any], Any],
        result: Callable[[int, Any, Any], Any],
        behind: Callable[[int, Any], Any] | None,
    ) -> Any:
        """Sums of products in registers: `width` columns, `depth` steps; `behind` says what the last vector's other lanes get."""
        lanes = self.lanes
        starts = range(0, width, lanes)
        sums = {(row, start): local(lanes, f"sum{row}_{start}") for row in range(rows) for start in starts}

        def step(depth: Any) -> Any:
            def add(row: int, start: int) -> Any:
                one = sums[row, start]
                return vector(
                    lanes,
                    lambda lane: store(one, load(one, [lane]) + left(row, depth) * right(depth, start + lane), [lane]),
                )

            return sequence([add(row, start) for row, start in sums])

        stored, copies = [], []
        for (row, start), one in sums.items():
            count = min(lanes, width - start)
            if count < lanes:  # registers hold whole vectors: the part that counts is read from a copy
                part = local(lanes, f"part{row}")
                copies.append(part)
                stored.append(copied(one, part, lanes))
                one = part
            for first, size in pieces(count):
                stored.append(
                    vector(
                        size,
                        lambda lane, row=row, one=one, at=first, place=start + first: result(row, place + lane, load(one, [at + lane])),
                    )
                )
            if behind is not None:
                for first, size in pieces(lanes - count):
                    stored.append(vector(size, lambda lane, row=row, place=start + count + first: behind(row, place + lane)))
        clear = [vector(lanes, lambda lane, one=one: store(one, floats(0.0), [lane])) for one in sums.values()]
        return allocated([*sums.values(), *copies], [*clear, loop(depth, step, name="depth"), *stored])


def _vectors(width: int, lanes: int) -> list[tuple[int, int]]:
    """Whole vectors, then powers of two."""
    whole = width // lanes * lanes
    return [(first, lanes) for first in range(0, whole, lanes)] + [(whole + first, size) for first, size in pieces(width - whole)]
