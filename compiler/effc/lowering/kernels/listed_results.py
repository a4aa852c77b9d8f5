"""What becomes of results that were computed for some positions of a list: they are propagated where they moved.

A tile of positions is computed into a scratch buffer first, because a position moves as a whole: all its channels are stored, or none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from effc.lowering.kernels.code import allocated, integer, load, local, store
from effc.lowering.kernels.integer_vectors import spread, vector_load, vector_store
from effc.lowering.kernels.moved import Moved, any_moved, vector_pieces

__all__ = ["Results", "propagated"]


@dataclass(frozen=True)
class Results:
    """The state that a kernel over a list keeps.

    Attributes:
        state: float32 (1, height, width, channels): what was propagated last.
        moved: its moved pixels.
        threshold: by how much a position must move; see `moved.any_moved`.
    """

    state: Any
    moved: Moved
    channels: int
    threshold: float


def propagated(results: Results, lanes: int, new: Callable[[int, int], Any], y: Any, x: Any) -> Any:
    """The statement that stores a position where it moved; `new` gives vectors of its channels, by (first channel, lanes).

    Without a branch, which could not be predicted: where the position did not move, what was there is stored again.
    """
    from tvm import tirx

    place = [integer(0)] * (len(results.state.shape) - 3) + [y, x]
    moved = local(1, "moved", "int32")

    def old(first: int, size: int) -> Any:
        return vector_load(results.state, [*place, integer(first)], size)

    def kept(first: int, size: int) -> Any:
        chosen = tirx.Select(spread(load(moved, [0]), size) != spread(integer(0), size), new(first, size), old(first, size))
        return vector_store(results.state, chosen, [*place, integer(first)], size)

    found = tirx.Cast("int32", any_moved(new, old, results.channels, lanes, results.threshold))
    mask, rows = results.moved.mask, results.moved.rows
    return allocated(
        [moved],
        [
            store(moved, found, [0]),
            *(kept(first, size) for first, size in vector_pieces(results.channels, lanes)),
            store(mask, tirx.Cast("uint8", load(moved, [0])), [y, x + results.moved.left]),
            store(rows, load(rows, [y]) + load(moved, [0]), [y]),
        ],
    )
