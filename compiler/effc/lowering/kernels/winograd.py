"""draft"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from effc.lowering.kernels.code import allocated, choose, flat_function, floats, integer, load, loop, parallel, sequence, store
from effc.lowering.kernels.conv import Convolution, read
from effc.lowering.kernels.fused import Fused
from effc.lowering.kernels.implementation import Implementation
from effc.lowering.kernels.packing import Computed
from effc.lowering.kernels.products import Product, loops, pieces
from effc.lowering.kernels.tiles import Tile, lanes_of
from effc.lowering.kernels.tiles import choose as choose_tile
from effc.lowering.kernels.winograd_transforms import Form, Straight, input_row, output_row
from effc.targets import Target

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Work:
    form: Form
    chunk: int  # tiles
    tasks: int  # each with chunks; 0: chunks one after another, parallel inside
    tile: Tile
    lanes: int


class Emitter:
    def __init__(self, fused: Fused, conv: Convolution, work: Work, target: Target) -> None:
        from tvm import tirx

        self.fused, self.conv, self.work, self.target = fused, conv, work, target
        self.epilogue = fused.epilogue()
        self.form, self.lanes = work.form, work.lanes
        self.grid = [-(-size // self.form.outputs) for size in conv.positions]
        self.tiles = conv.batch * math.prod(self.grid)
        self.chunks = -(-self.tiles // work.chunk)
        self.block = work.tile.vectors * work.lanes
        self.blocks = -(-conv.features // self.block)
        lines = self.form.alpha**2
        self.packed = tirx.decl_buffer((self.blocks, lines, conv.channels, self.block), "float32", name="packed")
        self.inputs = tirx.decl_buffer((max(1, work.tasks), lines, _uneven(work.chunk * conv.channels)), "float32", name="inputs")
        self.stride = -(-conv.features // work.lanes) * work.lanes
        self.sums = tirx.decl_buffer((max(1, work.tasks), lines, _uneven(work.chunk * self.stride)), "float32", name="sums")

    def implementation(self) -> Implementation:
        arguments = [self.packed if index == self.conv.weight else buffer for index, buffer in enumerate(self.fused.arguments)]
        function = flat_function(arguments, allocated([self.inputs, self.sums], [self._tasks()]))
        return Implementation(function, "winograd", {self.conv.weight: Computed(self.form.name, self._pack)})

    def _pack(self, weight: Array) -> Array:
        _, weights, _ = self.form.matrices()
        many = np.einsum("ix,oxyc,jy->ijco", weights, weight.astype(np.float64), weights, optimize=True).astype(np.float32)
        many = many.reshape(-1, self.conv.channels, self.conv.features)
        many = np.pad(many, [(0, 0), (0, 0), (0, self.blocks * self.block - self.conv.features)])
        return many.reshape(*many.shape[:2], self.blocks, self.block).transpose(2, 0, 1, 3)

    def _tasks(self) -> Any:
        chunk, tasks = self.work.chunk, self.work.tasks
        if not tasks:
            return loop(self.chunks, lambda number: self._phases(integer(0), number * chunk, parallel), name="chunk")
        per = -(-self.chunks // tasks)

        def task(number: Any) -> Any:
            from tvm import tirx

            count = per if self.chunks % per == 0 else tirx.min(integer(per), self.chunks - number * per)
            return loop(count, lambda index: self._phases(number, (number * per + index) * chunk, loop), name="chunk")

        return parallel(-(-self.chunks // per), task)

    def _phases(self, task: Any, first: Any, spread: Any) -> Any:
        product = self._product(task)
        return sequence(
            [
                spread(self.work.chunk, lambda tile: self._input_tile(task, first, tile), name="tile"),
                _serial(product) if spread is loop else product,
                spread(self.work.chunk, lambda tile: self._output_tile(task, first, tile), name="tile"),
            ]
        )

    def _place(self, number: Any) -> tuple[Any, Any, Any]:
        rows, columns = self.grid
        return number // (rows * columns), number // columns % rows, number % columns

    def _input_tile(self, task: Any, first: Any, tile: Any) -> Any:
        from tvm import tirx

        conv, form = self.conv, self.form
        number = first + tile
        if self.tiles % self.work.chunk:
            number = tirx.min(number, self.tiles - 1)
        image, *at = self._place(number)
        starts = [place * form.outputs - before for place, before in zip(at, conv.before, strict=True)]
        tests = []
        for start, before, size, count in zip(starts, conv.before, conv.sizes, self.grid, strict=True):
            if before:
                tests.append(start >= 0)
            if (count - 1) * form.outputs - before + form.alpha > size:
                tests.append(start <= size - form.alpha)

        def channels(edge: bool) -> Any:
            return _over_vectors(
                conv.channels, self.lanes, lambda channel, width: self._input_vector(task, image, starts, tile, channel, width, edge)
            )

        return choose(tirx.all(*tests), channels(False), channels(True)) if tests else channels(False)

    def _input_vector(self, task: Any, image: Any, starts: Sequence[Any], tile: Any, channel: Any, width: int, edge: bool) -> Any:
        from tvm import tirx

        code, conv, alpha = Straight(width), self.conv, self.form.alpha

        def element(row: int, column: int) -> Callable[[Any], Any]:
            places = [starts[0] + row, starts[1] + column]
            value = lambda lane: self.fused.value(conv.input, [image, *places, channel + lane])
            if not edge:
                return code.keep(value)
            inside = [test for place, size in zip(places, conv.sizes, strict=True) for test in (place >= 0, place < size)]
            return code.keep(lambda lane: tirx.if_then_else(tirx.all(*inside), value(lane), floats(0.0)))

        rows = [input_row(code, self.form, [element(row, column) for column in range(alpha)]) for row in range(alpha)]
        for column in range(alpha):
            for row, value in enumerate(input_row(code, self.form, [one[column] for one in rows])):
                code.put(
                    lambda lane, value=value, line=row * alpha + column: store(
                        self.inputs, value(lane), [task, line, tile * conv.channels + channel + lane]
                    )
                )
        return code.code()

    def _product(self, task: Any) -> Any:
        channels = self.conv.channels
        product = Product(
            lines=self.form.alpha**2,
            width=self.work.chunk,
            groups=1,
            outputs=self.stride,
            depth=channels,
            outer=lambda line: [],
            outer_taps=(),
            taps=1,
            reaches=lambda tap, position: True,
            left=lambda line, position, outer, tap, group, depth: load(self.inputs, [task, line, position * channels + depth]),
            right=lambda line, block, outer, tap, depth, lane: load(self.packed, [block, line, depth, lane]),
            result=lambda line, position, channel, value: store(self.sums, value, [task, line, position * self.stride + channel]),
            line_bytes=4 * channels * (self.work.chunk + self.stride),
        )
        return loops(product, self.work.tile, self.lanes, self.target)

    def _output_tile(self, task: Any, first: Any, tile: Any) -> Any:
        from tvm import tirx

        conv, form = self.conv, self.form
        image, *at = self._place(first + tile)
        starts = [place * form.outputs for place in at]
        tests = [start <= size - form.outputs for start, size in zip(starts, conv.positions, strict=True) if size % form.outputs]

        def channels(edge: bool) -> Any:
            return _over_vectors(
                conv.features, self.lanes, lambda channel, lanes: self._output_vector(task, image, starts, tile, channel, lanes, edge)
            )

        body = choose(tirx.all(*tests), channels(False), channels(True)) if tests else channels(False)
        if self.tiles % self.work.chunk:
            return choose(first + tile < self.tiles, body, tirx.Evaluate(integer(0)))
        return body

    def _output_vector(
        self, task: Any, image: Any, starts: Sequence[Any], tile: Any, channel: Any, width: int, edge: bool
    ) -> Any:
        from tvm import tirx

        code, alpha = Straight(width), self.form.alpha

        def element(row: int, column: int) -> Callable[[Any], Any]:
            return code.keep(lambda lane: load(self.sums, [task, row * alpha + column, tile * self.stride + channel + lane]))

        rows = [output_row(code, self.form, [element(row, column) for column in range(alpha)]) for row in range(alpha)]
        for column in range(self.form.outputs):
            for row, value in enumerate(output_row(code, self.form, [one[column] for one in rows])):
                places = [starts[0] + row, starts[1] + column]
                code.put(
                    lambda lane, value=value, places=places: self.epilogue.store(
                        [image, *places, channel + lane], value(lane)
                    )
                )
                if edge:
                    inside = [place < size for place, size in zip(places, self.conv.positions, strict=True)]
                    code.statements[-1] = tirx.IfThenElse(tirx.all(*inside), code.statements[-1], None)
        return code.code()


def _over_vectors(channels: int, lanes: int, body: Callable[[Any, int], Any]) -> Any:
    """Whole vectors of channels in a loop, what is left in vectors of powers of two."""
    whole = channels // lanes * lanes
    statements = [loop(whole // lanes, lambda number: body(number * lanes, lanes), name="vector")] if whole else []
    return sequence([*statements, *(body(integer(whole + first), size) for first, size in pieces(channels - whole))])


def _uneven(floats: int) -> int:
    """Room for some floats such that the same place of neighbouring lines does not fall into the same set of the cache."""
    whole = -(-floats // 16) * 16
    return whole + 16 if whole % 32 == 0 else whole


def _serial(statement: Any) -> Any:
    from tvm import tirx

    if isinstance(statement, tirx.For) and statement.kind == tirx.ForKind.PARALLEL:
        return tirx.For(statement.loop_var, statement.min, statement.extent, tirx.ForKind.SERIAL, statement.body)
    return statement


WORK: Any = None


def draft(fused: Fused, fixed: Sequence[bool], target: Target) -> Implementation | None:
    if WORK is None or fused.kind != "convolution":
        return None
    conv = read(fused)
    work = WORK(conv, target)
    return Emitter(fused, conv, work, target).implementation() if work else None
