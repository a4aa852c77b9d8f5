"""Matrix products, batched or not: columns of the result fill the vectors, rows share each vector of the right operand.

Rows that no tile divides are padded with zeros (197 tokens become 198). The right operand is packed when enough rows use it again. With
very few rows the product is bound by memory: then each thread streams whole stretches of the right operand once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from effc.lowering.kernels.generic import rest
from effc.lowering.kernels.nest import Nest, inline_producers, nests, parallel_outer, work
from effc.lowering.kernels.tiling import choose, divisors, epilogue, lanes_of, pack, tile
from effc.targets import Target

__all__ = ["apply", "find"]

# Fewer rows than this cannot hide the loading of the right operand.
FEW_ROWS = 4
# From this many rows on, packing the right operand costs less than it saves.
PACK_ROWS = 32
# Columns that one thread streams at a time when there are few rows.
STREAM = 512


@dataclass(frozen=True)
class Product:
    """A block `C[..., i, j] += A[..., i, k] * B[..., k, j]` (or `B[..., j, k]`); which of its reads is B; whether j is B's last index."""

    nest: Nest
    right: int
    columns_last: bool

    @property
    def rows(self) -> int:
        return self.nest.extents[-3]

    @property
    def columns(self) -> int:
        return self.nest.extents[-2]


def find(sch: Any) -> Product | None:
    """The one matrix product of a function."""
    found = [product for nest in nests(sch) if (product := _product(nest)) is not None]
    return found[0] if len(found) == 1 else None


def _product(nest: Nest) -> Product | None:
    from tvm import tirx

    if len(nest.kinds) < 3 or nest.kinds != "S" * (len(nest.kinds) - 1) + "R" or len(nest.block.reads) != 2 or 0 in nest.extents:
        return None
    value = getattr(nest.block.body, "value", None)
    if not isinstance(value, tirx.Add) or not isinstance(value.b, tirx.Mul):
        return None
    row, column, inner = nest.variables[-3:]
    for index, region in enumerate(nest.block.reads):
        ours, others = [place.min for place in region.region][-2:], [place.min for place in nest.block.reads[1 - index].region][-2:]
        if len(ours) != 2 or len(others) != 2 or not (others[0].same_as(row) and others[1].same_as(inner)):
            continue
        if ours[0].same_as(inner) and ours[1].same_as(column):
            return Product(nest, index, True)
        if ours[0].same_as(column) and ours[1].same_as(inner):
            return Product(nest, index, False)
    return None


def apply(sch: Any, target: Target) -> bool:
    """Schedule a function with one matrix product."""
    inline_producers(sch)
    product = find(sch)
    if product is None:
        return False
    main = product.nest
    lanes = lanes_of(target, str(main.block.writes[0].source.dtype))
    if product.rows < FEW_ROWS:
        return product.columns_last and _stream(sch, product, target)
    product = _padded(sch, product, lanes, target.registers)
    main = product.nest
    shape = choose(product.columns, product.rows, lanes, target.registers)
    if shape is None:
        return False
    packed = None
    if product.rows >= PACK_ROWS or not product.columns_last:
        packed = sch.cache_read(main.handle, product.right, "global")
        pack(sch, packed, axis=-1 if product.columns_last else -2, width=shape.lanes)
    axes = len(main.kinds) - 1
    tile(sch, main, epilogue(sch, main), lane=axes - 1, row=axes - 2, shape=shape)
    rest(sch, target)
    return True


def _padded(sch: Any, product: Product, lanes: int, registers: int) -> Product:
    """Pad rows to a tile that wastes little, and columns to whole vectors, where they are not already."""
    from tvm.s_tir import ScheduleError

    vectors = 2 if product.columns > lanes else 1
    limit = max(1, (registers - 4) // vectors)
    rows = min(range(1, limit + 1), key=lambda count: (-(-product.rows // count) * count / product.rows * (1 + 2 / count), -count))
    columns = lanes if product.columns % lanes and product.columns > lanes // 2 else 1
    if product.rows % rows == 0 and columns == 1:
        return product
    try:
        sch.pad_einsum(product.nest.handle, [*[1] * (len(product.nest.kinds) - 3), rows, columns, 1])
    except ScheduleError:  # batch axes that are broadcast: tiles must divide what there is
        return product
    inline_producers(sch)
    return find(sch) or product


def _stream(sch: Any, product: Product, target: Target) -> bool:
    """Few rows: threads take stretches of columns; LLVM vectorises along them."""
    main = product.nest
    width = max(divisor for divisor in divisors(product.columns) if divisor <= STREAM)
    if width < target.lanes:
        width = product.columns
    amount = work(main)
    *outer, column, inner = sch.get_loops(main.handle)
    stretch, lane = sch.split(column, [None, width])
    sch.reorder(*outer, stretch, inner, lane)
    parallel_outer(sch, [*outer, stretch], amount)
    sch.decompose_reduction(main.handle, inner)
    rest(sch, target)
    return True
