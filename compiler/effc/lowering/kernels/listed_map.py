"""Functions of single pixels at a list of positions: sums, concatenations, activations, every other pixel of an image, enlarged images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from effc.lowering.kernels.code import allocated, flat_function, integer, loop, sequence, store, vector
from effc.lowering.kernels.implementation import Implementation
from effc.lowering.kernels.inlining import inlined
from effc.lowering.kernels.integer_vectors import vector_load
from effc.lowering.kernels.listed_results import Results, propagated
from effc.lowering.kernels.moved import vector_pieces
from effc.lowering.kernels.pixel_list import TASKS, Listed, Work, listed
from effc.lowering.kernels.tiles import lanes_of
from effc.targets import Target

__all__ = ["listed_map"]


def listed_map(arguments: Sequence[Any], blocks: Sequence[Any], what: Listed, results: Results, target: Target) -> Implementation:
    """The kernel of a function whose blocks are all functions of a pixel; arguments like those of `listed_convolution`."""
    from tvm import tirx

    lanes, written = lanes_of(target, "float32"), {block.buffer: block for block in blocks}
    result = arguments[-1]
    values = tirx.decl_buffer((TASKS, results.channels), "float32", name="values")

    def entry(work: Work, number: Any) -> Any:
        y, x = work.at(number)

        def piece(first: int, size: int) -> Any:
            def computed(lane: Any) -> Any:
                value = inlined(result, [integer(0), y, x, integer(first) + lane], written, {})
                return store(values, value, [work.task, integer(first) + lane])

            return vector(size, computed)

        def new(first: int, size: int) -> Any:
            return vector_load(values, [work.task, integer(first)], size)

        pieces = [piece(first, size) for first, size in vector_pieces(results.channels, lanes)]
        return sequence([*pieces, propagated(results, lanes, new, y, x)])

    body = allocated([values], [listed(what, lambda work: loop(work.count, lambda number: entry(work, number), name="entry"))])
    return Implementation(flat_function([*arguments[:-1], *what.arguments(results.state)], body), "listed map")
