"""Matrix products, batched or not, in tiles: columns of the result fill the vectors, rows share each vector of the right operand.

A stored right operand is packed at compile time. One that is computed is read where it lies when its rows are whole vectors, else packed
first: each block's columns side by side, so that a transposed operand is read in vectors, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from effc.lowering.kernels.code import allocated, flat_function, floats, integer, load, loop, parallel, single, store
from effc.lowering.kernels.fused import Fused
from effc.lowering.kernels.implementation import Implementation
from effc.lowering.kernels.packing import Packed
from effc.lowering.kernels.products import PARALLEL_MACS, Product, loops
from effc.lowering.kernels.tiles import Choice, lanes_of, ranked
from effc.targets import Target

__all__ = ["choice", "product"]


def product(fused: Fused, fixed: Sequence[bool], target: Target) -> Implementation | None:
    """The matrix product of a function; None where it is none, or not of float32."""
    if fused.kind != "matmul" or str(fused.anchor.buffer.dtype) != "float32" or len(fused.reads()) != 2:
        return None
    return _Matmul(fused, fixed, target).implementation()


def choice(fused: Fused, fixed: Sequence[bool], target: Target) -> Choice | None:
    """The tiles that `product` may use; None for what it does not take."""
    if fused.kind != "matmul" or str(fused.anchor.buffer.dtype) != "float32" or len(fused.reads()) != 2:
        return None
    return _choice(fused, fixed, target)


def _choice(fused: Fused, fixed: Sequence[bool], target: Target) -> Choice:
    *batch, rows, columns, depth = fused.anchor.extents
    tiles = ranked(rows, columns, depth, lanes_of(target, "float32"), target.registers)
    argument = fused.argument(fused.reads()[1])
    if argument is not None and fixed[argument]:
        kind = "stored"
    else:
        kind = "as it lies" if columns % lanes_of(target, "float32") == 0 and _columns_last(fused) else "laid out"
    return Choice(f"matmul {'x'.join(map(str, [*batch, rows, depth]))} to {columns}, {kind}", tiles)


def _columns_last(fused: Fused) -> bool:
    """Whether neighbouring columns of the right operand lie side by side in memory."""
    from tvm import tirx
    from tvm.ir import TensorLoad

    right = fused.reads()[1]
    depth, column = tirx.Var("depth", "int32"), tirx.Var("column", "int32")
    value = fused.value(right, [*[integer(0)] * (len(right.shape) - 2), depth, column])
    return isinstance(value, TensorLoad) and len(value.indices) > 0 and value.indices[-1].same_as(column)


class _Matmul:
    def __init__(self, fused: Fused, fixed: Sequence[bool], target: Target) -> None:
        self.fused, self.fixed, self.target = fused, fixed, target
        self.left, self.right = fused.reads()
        *self.batch, self.rows, self.columns, self.depth = fused.anchor.extents
        self.lanes = lanes_of(target, "float32")
        choice = _choice(fused, fixed, target)
        self.layer, self.tile = choice.key, choice.tile(fused.options.tiles)
        self.block = self.tile.vectors * self.lanes
        self.blocks = -(-self.columns // self.block)
        self.epilogue = fused.epilogue()
        self.note = choice.note(self.tile, self.lanes, fused.options.tiles)

    def implementation(self) -> Implementation:
        from tvm import tirx

        argument = self.fused.argument(self.right)
        if argument is not None and self.fixed[argument] and len(self.right.shape) == 2:
            packed = tirx.decl_buffer((self.blocks, self.depth, self.block), str(self.right.dtype), name="packed")
            body = self._loops(
                lambda line, block, depth, lane: single(load(packed, [block, depth, lane])),
                lambda block, number: load(packed, [block + 1, 0, number * 16]),
            )
            arguments = [packed if index == argument else buffer for index, buffer in enumerate(self.fused.arguments)]
            packing = Packed((1, 0), ((1, self.block),))
            return Implementation(flat_function(arguments, body), "matmul", {argument: packing}, self.note, self.layer)
        if self.columns % self.lanes == 0 and _columns_last(self.fused):
            body = self._loops(lambda line, block, depth, lane: self._element(line, depth, block * self.block + lane))
            return Implementation(flat_function(self.fused.arguments, body), "matmul", note=self.note, layer=self.layer)
        return self._packed_here()

    def _packed_here(self) -> Implementation:
        """The right operand is laid out in blocks before the product, in a temporary buffer."""
        from tvm import tirx

        sizes = [int(size) for size in self.right.shape[:-2]]
        batches = math.prod(sizes)
        packed = tirx.decl_buffer((batches, self.blocks, self.depth, self.block), "float32", name="packed")

        def pack(number: Any) -> Any:
            batch, block = number // self.blocks, number % self.blocks
            index = _places(batch, sizes)

            def lane_of(lane: Any) -> Any:
                column = block * self.block + lane
                inside = column < self.columns
                place = column if self.columns % self.block == 0 else tirx.min(column, self.columns - 1)

                def element(depth: Any) -> Any:
                    value = self.fused.value(self.right, [*index, depth, place])
                    if self.columns % self.block:
                        value = tirx.Select(inside, value, floats(0.0))
                    return store(packed, value, [batch, block, depth, lane])

                return loop(self.depth, element, name="depth")

            return loop(self.block, lane_of, name="lane")

        total = batches * self.blocks
        spread = parallel if total > 1 and self.depth * self.columns * batches >= PARALLEL_MACS else loop
        body = self._loops(lambda line, block, depth, lane: load(packed, [self._batch_of(line, sizes), block, depth, lane]))
        function = flat_function(self.fused.arguments, allocated([packed], [spread(total, pack), body]))
        return Implementation(function, "matmul", note=self.note, layer=self.layer)

    def _element(self, line: Any, depth: Any, column: Any) -> Any:
        sizes = [int(size) for size in self.right.shape[:-2]]
        return self.fused.value(self.right, [*self._own(line, sizes), depth, column])

    def _own(self, line: Any, sizes: Sequence[int]) -> list[Any]:
        """The place of a line in the batch axes of an operand, which may have fewer, or broadcast some."""
        index = _places(line, self.batch)
        return [integer(0) if size == 1 else place for size, place in zip(sizes, index[len(index) - len(sizes) :], strict=True)]

    def _batch_of(self, line: Any, sizes: Sequence[int]) -> Any:
        number: Any = integer(0)
        for size, place in zip(sizes, self._own(line, sizes), strict=True):
            number = number * size + place
        return number

    def _loops(self, right: Callable[[Any, Any, Any, Any], Any], ahead: Callable[[Any, Any], Any] | None = None) -> Any:
        """The product, panel by panel of the depth: a panel of both operands stays in the cache, sums wait in memory between panels."""
        from tvm import tirx

        panels = self._panels()
        if panels == 1:
            return loops(self._panel(right, ahead, 0, self.depth), self.tile, self.lanes, self.target)
        size = -(-self.depth // panels)
        size += -size % 16  # whole cache lines of whole blocks
        partial = tirx.decl_buffer((math.prod(self.batch), self.rows, self.blocks * self.block), "float32", name="partial")
        parts = []
        for first in range(0, self.depth, size):
            whole = self._panel(right, ahead, first, min(size, self.depth - first))
            if first:
                whole = replace(whole, initial=lambda line, position, channel: load(partial, [line, position, channel]))
            if first + size < self.depth:
                whole = replace(whole, result=lambda line, position, channel, value: store(partial, value, [line, position, channel]))
            parts.append(loops(whole, self.tile, self.lanes, self.target))
        return allocated([partial], parts)

    def _panels(self) -> int:
        """Into how many panels the depth is cut, so that one of the left operand and of a block fits into the second-level cache."""
        needed = 4 * self.depth * (self.rows + self.block)
        return max(1, -(-needed * 4 // (3 * self.target.l2))) if self.rows > self.tile.rows and self.blocks > 1 else 1

    def _panel(
        self, right: Callable[[Any, Any, Any, Any], Any], ahead: Callable[[Any, Any], Any] | None, first: int, depth: int
    ) -> Product:
        left_sizes = [int(size) for size in self.left.shape[:-2]]
        request = None
        if ahead is not None:
            skipped = first * self.block * 4 // 64

            def request(block: Any, number: Any) -> Any:
                return ahead(block, number + skipped)

        return Product(
            lines=math.prod(self.batch),
            width=self.rows,
            groups=1,
            outputs=self.columns,
            depth=depth,
            outer=lambda line: [],
            outer_taps=(),
            taps=1,
            reaches=lambda tap, position: True,
            left=lambda line, position, outer, tap, group, inner: self.fused.value(
                self.left, [*self._own(line, left_sizes), position, inner + first]
            ),
            right=lambda line, block, outer, tap, inner, lane: right(line, block, inner + first, lane),
            result=lambda line, position, channel, value: self.epilogue.store([*_places(line, self.batch), position, channel], value),
            line_bytes=4 * self.rows * depth,
            ahead=request,
        )


def _places(number: Any, sizes: Sequence[int]) -> list[Any]:
    """The index along axes of given sizes of an element that is counted through all of them."""
    found = []
    for size in reversed(sizes):
        found.append(number % size)
        number = number // size
    return list(reversed(found))
