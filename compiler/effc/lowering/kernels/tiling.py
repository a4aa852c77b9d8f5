"""Register tiles for sums of products: a block of accumulators stays in vector registers while the reduction runs through memory once.

`lane` is the output axis whose elements fill vectors, `row` the axis of which a few positions share each vector that is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from effc.lowering.kernels.nest import PARALLEL_WORK, Nest, is_constant, named, parallel_outer, plain, work
from effc.targets import Target

__all__ = ["Tile", "choose", "divisors", "epilogue", "lanes_of", "pack", "tile"]

# Registers that are left for loaded operands.
RESERVED = 4
# Fewer lanes than this are not worth a vector.
FEWEST_LANES = 4


@dataclass(frozen=True)
class Tile:
    """Accumulators of one tile: `lanes` elements of the lane axis for each of `rows` positions of the row axis."""

    lanes: int
    rows: int


def divisors(number: int) -> list[int]:
    return [candidate for candidate in range(1, number + 1) if number % candidate == 0]


def lanes_of(target: Target, dtype: str) -> int:
    """Elements of a type in one vector; types narrower than 32 bit are counted as 32 bit, as they are summed in that."""
    import numpy as np

    return max(1, target.lanes * 4 // max(4, np.dtype(dtype).itemsize))


def choose(lane_extent: int, row_extent: int, lanes: int, registers: int) -> Tile | None:
    """The tile with the most work in registers, then the fewest loads; None where the lane axis does not fill half a vector."""
    widths = [count * lanes for count in (1, 2, 4) if lane_extent % (count * lanes) == 0]
    if not widths:
        widths = [width for width in (lanes // 2, lanes // 4) if width >= FEWEST_LANES and lane_extent % width == 0][:1]
    best: tuple[tuple[float, int], Tile] | None = None
    for width in widths:
        vectors = -(-width // lanes)
        for rows in divisors(row_extent):
            if vectors * rows <= max(1, registers - RESERVED):
                score = (rows * width / lanes, -(vectors + rows))
                if best is None or score > best[0]:
                    best = (score, Tile(width, rows))
    return best[1] if best else None


def epilogue(sch: Any, main: Nest) -> Any:
    """The block that stores the finished sums: the one reader of them if it works position by position, else a copy.

    Afterwards `main` writes to a local buffer and the returned block, which has the output's loops, reads it.
    """
    consumers = sch.get_consumers(main.handle)
    written = main.block.writes[0].source
    if len(consumers) == 1:
        reader = named(sch, consumers[0])
        fits = all(own <= int(size) for own, size in zip(reader.extents, written.shape, strict=False))
        if reader.spatial and fits and plain(sch, reader) and _at_own_position(reader, written):
            sch.set_scope(main.handle, 0, "local")
            return consumers[0]
    return sch.cache_write(main.handle, 0, "local")


def _at_own_position(reader: Nest, buffer: Any) -> bool:
    """Whether the block reads the buffer, and writes its result, only where the block itself stands."""
    reads = [region for region in reader.block.reads if region.source.same_as(buffer)]
    places = [list(region.region) for region in (*reads, *reader.block.writes)]
    axes = reader.block.iter_vars
    return all(len(place) == len(axes) and all(map(_is_here, place, axes)) for place in places)


def _is_here(place: Any, axis: Any) -> bool:
    return bool(place.min.same_as(axis.var)) or (int(axis.dom.extent) == 1 and is_constant(place.min, 0))


def pack(sch: Any, copy: Any, axis: int, width: int) -> None:
    """Lay a cached copy out as `[axis / width][all other axes][width]`: the elements of a vector side by side.

    Axes in front of `axis` that are followed by exactly one other axis (batches of a matrix product) stay in front.
    """
    nest = named(sch, copy)
    rank = len(nest.extents)
    position = axis % rank
    front = rank - 2 if position >= rank - 2 and rank > 2 and axis < 0 else 0

    def layout(*index: Any) -> tuple[Any, ...]:
        others = [place for number, place in enumerate(index) if number >= front and number != position]
        return (*index[:front], index[position] // width, *others, index[position] % width)

    sch.transform_layout(copy, ("write", 0), layout)
    loops = list(sch.get_loops(copy))
    outer, lane = sch.split(loops[position], [None, width])
    others = [loop for number, loop in enumerate(loops) if number >= front and number != position]
    sch.reorder(*loops[:front], outer, *others, lane)
    parallel_outer(sch, [*loops[:front], outer, *others[:1]], work(nest))
    if position == rank - 1:
        sch.vectorize(lane)


def tile(sch: Any, main: Nest, store: Any, lane: int, row: int, shape: Tile) -> None:
    """Tile `store` (from `epilogue`), compute the sums of a tile where it is stored, keep them in registers.

    Args:
        main: the block that sums.
        store: the block that stores; its loops are those of the output's axes.
        lane, row: numbers of the output's axes.
    """
    amount = work(main)
    last = sum(kind == "S" for kind in main.kinds) - 1
    if lane != last:  # accumulators of a vector lie side by side
        sch.transform_layout(main.handle, ("write", 0), lambda *axes: (*axes[:lane], *axes[lane + 1 :], axes[lane]))
    loops = list(sch.get_loops(store))
    lane_outer, lane_inner = sch.split(loops[lane], [None, shape.lanes])
    row_outer, row_inner = sch.split(loops[row], [None, shape.rows])
    loops[row] = row_outer
    del loops[lane]
    # The lane axis outermost (after batch axes): its weights stay in the cache while the rows run.
    loops.insert(min(lane, row), lane_outer)
    inner = [lane_inner, row_inner] if row > lane else [row_inner, lane_inner]
    sch.reorder(*loops, *inner)
    outer = sch.fuse(*loops)
    sch.compute_at(main.handle, outer, preserve_unit_loops=True)
    if amount >= PARALLEL_WORK and int(sch.get(outer).extent) > 1:
        sch.parallel(outer)
    if row < lane:
        sch.vectorize(inner[1])
    own = sch.get_loops(main.handle)[1:]
    spatial = [loop for loop, kind in zip(own, main.kinds, strict=True) if kind == "S"]
    reduction = [loop for loop, kind in zip(own, main.kinds, strict=True) if kind == "R"]
    lanes, rows = spatial[lane], spatial[row]
    others = [loop for index, loop in enumerate(spatial) if index not in (lane, row)]
    sch.reorder(*others, *reduction, rows, lanes)
    if shape.lanes > 1:
        sch.vectorize(lanes)
    sch.unroll(rows)
    sch.decompose_reduction(main.handle, reduction[0])
