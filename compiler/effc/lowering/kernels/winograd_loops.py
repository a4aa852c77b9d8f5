"""The loops of Winograd's convolution: tiles of the input are transformed, multiplied, and transformed back.

Three phases over a chunk of tiles, with alpha^2 independent matrix products in the middle, one for each place of a transformed tile:

    inputs[place, tile, channel]  = B^T d B           d: alpha x alpha positions of the input; zeros beyond its edges
    sums[place, tile, feature]    = sum over channels of inputs[place, tile, channel] * weights[place, channel, feature]
    output[m x m positions of the tile, feature] = what is fused behind (A^T sums A)

Channels fill the vectors in all of them. A tile's loads and stores at the edges are tested one by one, inside none is. Both buffers of a
chunk should stay in the second-level cache. Either a task goes through all phases of its own chunks, in buffers of its own; or chunks
come one after another, and the threads share the work of each phase.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from effc.lowering.kernels.code import allocated, choose, flat_function, floats, integer, load, loop, parallel, sequence, store
from effc.lowering.kernels.conv import Convolution
from effc.lowering.kernels.fused import Fused
from effc.lowering.kernels.products import Product, serial_loops
from effc.lowering.kernels.tiles import Tile
from effc.lowering.kernels.winograd_transforms import Form, Straight, Value, input_row, output_row
from effc.targets import Target

__all__ = ["Work", "function"]

_LINE = 16  # floats of a cache line


@dataclass(frozen=True)
class Work:
    """How a convolution is cut.

    Attributes:
        chunk: tiles of the image that go through the phases together.
        tasks: tasks that share out the chunks; 0: chunks come one after another, and their phases are shared out.
        tile: of registers, in the products.
        lanes: of a vector.
    """

    form: Form
    chunk: int
    tasks: int
    tile: Tile
    lanes: int

    @property
    def block(self) -> int:
        return self.tile.vectors * self.lanes


def function(fused: Fused, conv: Convolution, work: Work, target: Target) -> Any:
    """The kernel; in the place of the weights it takes `[place, block of features, channel, feature of the block]`."""
    return _Emitter(fused, conv, work, target).function()


class _Emitter:
    def __init__(self, fused: Fused, conv: Convolution, work: Work, target: Target) -> None:
        from tvm import tirx

        self.fused, self.conv, self.work, self.target = fused, conv, work, target
        self.epilogue = fused.epilogue()
        self.grid = [-(-size // work.form.outputs) for size in conv.positions]
        self.tiles = conv.batch * math.prod(self.grid)
        self.chunks = -(-self.tiles // work.chunk)
        self.places = work.form.alpha**2
        self.features = -(-conv.features // work.lanes) * work.lanes
        blocks = -(-conv.features // work.block)
        self.packed = tirx.decl_buffer((self.places, blocks, conv.channels, work.block), "float32", name="packed")
        rooms = [(max(1, work.tasks), self.places, _uneven(work.chunk * size)) for size in (conv.channels, self.features)]
        self.inputs = tirx.decl_buffer(rooms[0], "float32", name="inputs")
        self.sums = tirx.decl_buffer(rooms[1], "float32", name="sums")

    def function(self) -> Any:
        arguments = [self.packed if index == self.conv.weight else buffer for index, buffer in enumerate(self.fused.arguments)]
        return flat_function(arguments, allocated([self.inputs, self.sums], [self._chunks()]))

    def _chunks(self) -> Any:
        from tvm import tirx

        chunk, tasks = self.work.chunk, self.work.tasks
        if not tasks:
            return loop(self.chunks, lambda number: self._phases(integer(0), number * chunk, parallel), name="chunk")
        each = -(-self.chunks // tasks)

        def task(number: Any) -> Any:
            count = each if self.chunks % each == 0 else tirx.min(integer(each), self.chunks - number * each)
            return loop(count, lambda index: self._phases(number, (number * each + index) * chunk, loop), name="chunk")

        return parallel(-(-self.chunks // each), task)

    def _phases(self, task: Any, first: Any, spread: Callable[..., Any]) -> Any:
        """All phases of the tiles from `first` on, in the buffers of a task."""
        return sequence(
            [
                spread(self.work.chunk, lambda tile: self._input_tile(task, first, tile), name="tile"),
                spread(self.places, lambda place: self._product(task, place), name="place"),
                spread(self.work.chunk, lambda tile: self._output_tile(task, first, tile), name="tile"),
            ]
        )

    def _corner(self, number: Any) -> tuple[Any, list[Any]]:
        """The image of a tile and its first position there."""
        rows, columns = self.grid
        size = self.work.form.outputs
        return number // (rows * columns), [number // columns % rows * size, number % columns * size]

    # ---- first phase -----------------------------------------------------------------------------------------------------------

    def _input_tile(self, task: Any, first: Any, tile: Any) -> Any:
        from tvm import tirx

        conv, alpha = self.conv, self.work.form.alpha
        number = first + tile
        if self.tiles % self.work.chunk:  # behind the last tile it comes again: its sums are not used, but they should be numbers
            number = tirx.min(number, self.tiles - 1)
        image, corner = self._corner(number)
        starts = [start - before for start, before in zip(corner, conv.before, strict=True)]
        tests = [start >= 0 for start, before in zip(starts, conv.before, strict=True) if before > 0]
        for start, before, size, count in zip(starts, conv.before, conv.sizes, self.grid, strict=True):
            if (count - 1) * self.work.form.outputs - before + alpha > size:
                tests.append(start <= size - alpha)

        def body(edge: bool) -> Any:
            def vector_of(channel: Any, width: int) -> Any:
                code = Straight(width)

                def element(row: int, column: int) -> Value:
                    at = [starts[0] + row, starts[1] + column]
                    inside = [test for where, size in zip(at, conv.sizes, strict=True) for test in (where >= 0, where < size)]

                    def value(lane: Any) -> Any:
                        read = self.fused.value(conv.input, [image, *at, channel + lane])
                        return tirx.if_then_else(tirx.all(*inside), read, floats(0.0)) if edge else read

                    return code.keep(value)

                def put(row: int, column: int, value: Value) -> None:
                    room = [task, row * alpha + column]
                    code.put(lambda lane: store(self.inputs, value(lane), [*room, tile * conv.channels + channel + lane]))

                self._both_ways(code, input_row, element, put)
                return code.code()

            return _over_vectors(conv.channels, self.work.lanes, vector_of)

        return choose(tirx.all(*tests), body(False), body(True)) if tests else body(False)

    # ---- second phase ----------------------------------------------------------------------------------------------------------

    def _product(self, task: Any, place: Any) -> Any:
        channels, features = self.conv.channels, self.features
        product = Product(
            lines=1,
            width=self.work.chunk,
            groups=1,
            outputs=features,
            depth=channels,
            outer=lambda line: [],
            outer_taps=(),
            taps=1,
            reaches=lambda tap, position: True,
            left=lambda line, position, outer, tap, group, depth: load(self.inputs, [task, place, position * channels + depth]),
            right=lambda line, block, outer, tap, depth, lane: load(self.packed, [place, block, depth, lane]),
            result=lambda line, position, feature, value: store(self.sums, value, [task, place, position * features + feature]),
            line_bytes=0,
            ahead=lambda block, number: load(self.packed, [place, block + 1, 0, number * _LINE]),
        )
        return serial_loops(product, self.work.tile, self.work.lanes, self.target)

    # ---- third phase -----------------------------------------------------------------------------------------------------------

    def _output_tile(self, task: Any, first: Any, tile: Any) -> Any:
        from tvm import tirx

        conv, form = self.conv, self.work.form
        image, corner = self._corner(first + tile)
        tests = [start <= size - form.outputs for start, size in zip(corner, conv.positions, strict=True) if size % form.outputs]

        def body(edge: bool) -> Any:
            def vector_of(channel: Any, width: int) -> Any:
                code = Straight(width)

                def element(row: int, column: int) -> Value:
                    room = [task, row * form.alpha + column]
                    return code.keep(lambda lane: load(self.sums, [*room, tile * self.features + channel + lane]))

                def put(row: int, column: int, value: Value) -> None:
                    at = [corner[0] + row, corner[1] + column]
                    inside = tirx.all(*(where < size for where, size in zip(at, conv.positions, strict=True))) if edge else True
                    code.put(lambda lane: self.epilogue.store([image, *at, channel + lane], value(lane)), inside)

                self._both_ways(code, output_row, element, put)
                return code.code()

            return _over_vectors(conv.features, self.work.lanes, vector_of)

        stored = choose(tirx.all(*tests), body(False), body(True)) if tests else body(False)
        if self.tiles % self.work.chunk == 0:
            return stored
        return choose(first + tile < self.tiles, stored, tirx.Evaluate(integer(0)))

    def _both_ways(
        self,
        code: Straight,
        transform: Callable[[Straight, Form, Sequence[Value]], list[Value]],
        element: Callable[[int, int], Value],
        put: Callable[[int, int, Value], None],
    ) -> None:
        """The transform of the rows of a tile, then of the columns."""
        form = self.work.form
        rows = [transform(code, form, [element(row, column) for column in range(form.alpha)]) for row in range(form.alpha)]
        for number, column in enumerate(zip(*rows, strict=True)):
            for row, value in enumerate(transform(code, form, column)):
                put(row, number, value)


def _over_vectors(channels: int, lanes: int, body: Callable[[Any, int], Any]) -> Any:
    """All channels in vectors of one width; what is left comes with the end of the vector before it, once more."""
    from tvm import tirx

    width = min(lanes, 1 << (channels.bit_length() - 1))

    def vector_of(number: Any) -> Any:
        first = number * width
        return body(first if channels % width == 0 else tirx.min(first, channels - width), width)

    return loop(-(-channels // width), vector_of, name="vector")


def _uneven(size: int) -> int:
    """Room for some floats, an odd number of cache lines: so the same tile at all places does not fall into the same set of the cache."""
    return _LINE * (-(-size // _LINE) | 1)
