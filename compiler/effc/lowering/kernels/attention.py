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
from dataclasses import dataclass
from typing import Any

from effc.lowering.kernels.attention_operands import keys_by_channel, values_by_position
from effc.lowering.kernels.attention_softmax import softmax_rows
from effc.lowering.kernels.code import allocated, choose, flat_function, floats, integer, load, loop, parallel, sequence, store
from effc.lowering.kernels.fused import Fused
from effc.lowering.kernels.implementation import Implementation
from effc.lowering.kernels.products import PARALLEL_MACS
from effc.lowering.kernels.register_tile import register_tile
from effc.lowering.kernels.tiles import candidates, cycles, lanes_of
from effc.targets import Target

__all__ = ["attention"]

_TOGETHER = 4  # rows of scores whose softmax is computed at once
_MANY_HEADS = 8  # so many are shared evenly enough by a few threads
_TASKS = 32  # each has a scratch buffer; enough for many threads to share evenly
_FEW_TASKS, _SCRATCH = 8, 1 << 23  # where the buffers of so many would take more bytes than that


def attention(fused: Fused, fixed: Sequence[bool], target: Target) -> Implementation | None:
    """The attention of a function; None where it is none."""
    return _Attention(fused, target).implementation() if fused.kind == "attention" else None


@dataclass(frozen=True)
class _Place:
    """What a unit works on: the slot of its keys and values, the one of its scores, the head, and its first query."""

    slot: Any
    task: Any
    batch: Any
    head: Any
    query: Any


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
        self.alone = self.tasks > 1 and self.batch * self.own >= _MANY_HEADS
        self._buffers()

    def _tile(self) -> tuple[int, int, int]:
        """Rows of a tile of queries, vectors of keys in the first product, vectors of channels in the second."""
        first, second = self._fastest(self.keys, self.channels), self._fastest(self.out, self.keys)
        rows = min(first.keys() & second.keys(), key=lambda rows: (first[rows][0] + second[rows][0], rows))
        return -(-self.queries // -(-self.queries // rows)), first[rows][1], second[rows][1]

    def _fastest(self, outputs: int, depth: int) -> dict[int, tuple[float, int]]:
        """By rows of a tile: what a product costs at best, and with how many vectors."""
        found: dict[int, tuple[float, int]] = {}
        for tile in candidates(self.queries, outputs, self.lanes, self.target.registers):
            cost = cycles(tile, self.queries, outputs, depth, self.lanes)
            found[tile.rows] = min(found.get(tile.rows, (math.inf, 0)), (cost, tile.vectors))
        return found

    def _shares(self) -> tuple[int, int]:
        """Tiles of a unit, whose scores fit half of the nearest cache, and tasks, which take units one after another."""
        pairs, tiles = self.batch * self.heads, self.tiles + (self.rest > 0)
        fitting = max(1, self.target.l1 // 2 // (4 * self.keys * self.rows))
        if pairs * self.queries * self.keys * (self.channels + self.out) < PARALLEL_MACS:
            return min(tiles, fitting), 1
        share = max(1, min(tiles, fitting, tiles * pairs // _TASKS))
        most = max(_FEW_TASKS, min(_TASKS, _SCRATCH // (4 * self.keys * self.rows * share)))
        return share, min(most, pairs * -(-tiles // share))

    def _buffers(self) -> None:
        from tvm import tirx

        width = -(-self.keys // self.lanes) * self.lanes
        width += self.lanes if width % 256 == 0 else 0  # rows would share their places in the cache
        slots, tasks = (min(self.batch * self.own, _TASKS),) * 2 if self.alone else (self.batch * self.own, self.tasks)
        shapes = {
            "keys": (slots, self.key_blocks, self.channels, self.key_block),
            "values": (slots, self.out_blocks, self.keys, self.out_block),
            "scratch": (tasks, self.share * self.rows, width),
            "factors": (tasks, self.share * self.rows),
        }
        self.buffers = [tirx.decl_buffer(shape, "float32", name=name) for name, shape in shapes.items()]
        self.packed_keys, self.packed_values, self.scratch, self.factors = self.buffers

    def implementation(self) -> Implementation:
        body = self._by_heads() if self.alone else self._by_units()
        return Implementation(flat_function(self.fused.arguments, body), "attention")

    def _by_heads(self) -> Any:
        """Each task takes some heads of the keys, one after another, and the heads of queries that share it: what it lays out never leaves
        its cache.
        """
        share, total, tasks = self.heads // self.own, self.batch * self.own, int(self.packed_keys.shape[0])

        def task(slot: Any) -> Any:
            def head(number: Any) -> Any:
                batch, own = number // self.own, number % self.own

                def unit(number: Any) -> Any:
                    return self._unit(slot, slot, batch, own * share + number // self.units, number % self.units)

                return sequence(
                    [
                        loop(self.key_blocks, lambda block: self._pack(slot, batch, own, block), name="block"),
                        loop(share * self.units, unit, name="unit"),
                    ]
                )

            return _shared(head, total, tasks, slot, "head")

        return allocated(self.buffers, [parallel(tasks, task)])

    def _by_units(self) -> Any:
        """All keys and values are laid out first, and then shared."""
        total = self.batch * self.heads * self.units

        def pack(number: Any) -> Any:
            # Head after head of the same positions: projections hold them side by side.
            batch, block, own = number // (self.own * self.key_blocks), number // self.own % self.key_blocks, number % self.own
            return self._pack(batch * self.own + own, batch, own, block)

        def unit(task: Any, number: Any) -> Any:
            pair, group = number // self.units, number % self.units
            batch, head = pair // self.heads, pair % self.heads
            return self._unit(batch * self.own + head // (self.heads // self.own), task, batch, head, group)

        def task(number: Any) -> Any:
            if self.tasks == 1:
                return loop(total, lambda which: unit(integer(0), which), name="unit")
            return _shared(lambda which: unit(number, which), total, self.tasks, number, "unit")

        spread = parallel if self.tasks > 1 else loop
        return allocated(self.buffers, [spread(self.batch * self.own * self.key_blocks, pack), spread(self.tasks, task)])

    # ---- keys and values -----------------------------------------------------------------------------------------------------

    def _pack(self, slot: Any, batch: Any, head: Any, block: Any) -> Any:
        """A block of keys of one head, and the values of the same positions, into a slot of the buffers."""

        def key(position: Any, channel: Any) -> Any:
            return self.fused.value(self.key, [batch, head, position, channel])

        def value(position: Any, channel: Any) -> Any:
            return self.fused.value(self.value, [batch, head, position, channel])

        def put_key(channel: Any, at: Any, value: Any) -> Any:
            return store(self.packed_keys, value, [slot, block, channel, at])

        def put_value(number: int, position: Any, at: Any, value: Any) -> Any:
            return store(self.packed_values, value, [slot, number, position, at])

        def some(count: int) -> Any:
            start = block * self.key_block
            return sequence(
                [
                    keys_by_channel(key, start, count, self.keys, self.channels, self.lanes, put_key),
                    values_by_position(value, start, count, self.out, self.out_block, self.lanes, put_value),
                ]
            )

        return self._of_block(block, some)

    def _of_block(self, block: Any, body: Callable[[int], Any]) -> Any:
        """The statement for a block of keys, given how many it has."""
        rest = self.keys % self.key_block
        if not rest:
            return body(self.key_block)
        return choose(self.key_blocks == 1 or block == self.key_blocks - 1, body(rest), body(self.key_block))

    # ---- queries -------------------------------------------------------------------------------------------------------------

    def _unit(self, slot: Any, task: Any, batch: Any, head: Any, group: Any) -> Any:
        """Some tiles of queries of one head: keys and values from a slot of theirs, scores in that of a task."""
        from tvm import tirx

        first = group * self.share  # tile
        at = _Place(slot, task, batch, head, first * self.rows)
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
            return tirx.min(integer(self.keys), at.query + query + rows) if self.causal else self.keys

        blocks: Any = self.key_blocks
        if self.causal:  # up to the last query
            blocks = (tirx.min(integer(self.keys), (first + self.share) * self.rows) + self.key_block - 1) // self.key_block

        def scored(block: Any) -> Any:
            def of(count: int) -> Any:
                return tiles(lambda query, rows: self._scores(at, query, rows, block, count))

            return self._of_block(block, of)

        def softmax(query: Any, rows: int) -> Any:
            vectors: Any = -(-self.keys // self.lanes)
            if self.causal:
                vectors = tirx.min(integer(vectors), blocks * (self.key_block // self.lanes))
            groups, rest = divmod(rows, _TOGETHER)
            some = loop(groups, lambda group: self._softmax(at, query + group * _TOGETHER, _TOGETHER, vectors), name="group")
            last = [self._softmax(at, query + groups * _TOGETHER, rest, vectors)] if rest else []
            return sequence([*([some] if groups else []), *last])

        def summed(query: Any, rows: int) -> Any:
            return sequence([self._weighted(at, query, rows, end(query, rows), number) for number in range(self.out_blocks)])

        return sequence([loop(blocks, scored, name="block"), tiles(softmax), tiles(summed)])

    def _scores(self, at: _Place, query: Any, rows: int, block: Any, count: int) -> Any:
        """One tile of scores into the scratch buffer; behind the last key they are minus infinity."""

        def masked(row: int, lane: Any, value: Any) -> Any:
            column = block * self.key_block + lane
            place = [at.batch, at.head, at.query + query + row, column]
            return store(self.scratch, self.fused.value(self.masked, place, {self.scores: lambda _: value}), [at.task, query + row, column])

        return register_tile(
            rows,
            count,
            self.channels,
            self.lanes,
            left=lambda row, depth: self.fused.value(self.query, [at.batch, at.head, at.query + query + row, depth]),
            right=lambda depth, lane: load(self.packed_keys, [at.slot, block, depth, lane]),
            result=masked,
            behind=lambda row, lane: store(self.scratch, floats(-math.inf), [at.task, query + row, block * self.key_block + lane]),
        )

    def _softmax(self, at: _Place, query: Any, rows: int, vectors: Any) -> Any:
        return softmax_rows(
            self.scratch,
            self.factors,
            lambda row, column: [at.task, query + row, column],
            lambda row: [at.task, query + row],
            rows,
            vectors,
            self.lanes,
        )

    def _weighted(self, at: _Place, query: Any, rows: int, depth: Any, number: int) -> Any:
        """One tile of results."""

        def result(row: int, lane: Any, value: Any) -> Any:
            position = [at.batch, at.query + query + row, at.head, number * self.out_block + lane]
            return self.epilogue.store([position[axis] for axis in self.axes], value * load(self.factors, [at.task, query + row]))

        return register_tile(
            rows,
            min(self.out_block, self.out - number * self.out_block),
            depth,
            self.lanes,
            left=lambda row, depth: load(self.scratch, [at.task, query + row, depth]),
            right=lambda depth, lane: load(self.packed_values, [at.slot, number, depth, lane]),
            result=result,
        )


def _shared(body: Callable[[Any], Any], total: int, tasks: int, task: Any, name: str) -> Any:
    """A task's part of a loop: the first tasks take one round more where it does not divide. Numbers stay as small as the loop's."""
    from tvm import tirx

    each, more = divmod(total, tasks)
    count = tirx.Select(task < more, integer(each + 1), integer(each)) if more else each
    return loop(count, body, start=task * each + (tirx.min(task, integer(more)) if more else 0), name=name)
