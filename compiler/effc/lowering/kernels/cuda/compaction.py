"""The list of what is not zero among some elements, made by a block of threads in its shared memory, in ascending order.

Each thread looks at a few neighbouring elements, learns how many entries the threads in front of it have, and writes its own behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from effc.lowering.kernels.code import allocated, choose, floats, integer, load, sequence, store
from effc.lowering.kernels.cuda.block import Block
from effc.lowering.kernels.cuda.code import registers, synchronise, when

__all__ = ["listed"]

_MAGNITUDE = 0x7FFFFFFF


def listed(
    block: Block, length: int, start: Any, end: int, values: Sequence[Callable[[Any], Any]], places: Any, factors: Any, count: Any
) -> Any:
    """The statement that lists the places `[start, start + length)` under `end` where any of the values is not zero.

    It looks at bits: NaN is not zero, whatever a comparison would say. All threads see the list when it is done.

    Args:
        values: for each row, the float32 at a place.
        places: shared int32 (length,): the list.
        factors: shared float32 (rows, length): the rows' values at the listed places. None: nobody wants them.
        count: a register: how many.
    """
    from tvm import tirx

    each = -(-length // block.threads)
    first, at = registers(1, "before", "int32"), registers(1, "at", "int32")
    own = [registers(each, f"own{row}") for row in range(len(values))]
    begun = block.thread * each

    def used(number: int) -> Any:
        together: Any = None
        for one in own:
            bits = tirx.reinterpret("int32", load(one, [number]))
            together = bits if together is None else tirx.bitwise_or(together, bits)
        return tirx.bitwise_and(together, integer(_MAGNITUDE)) != 0

    def taken(number: int) -> Any:
        place = start + begun + number
        inside = place < end
        if length % block.threads:
            inside = tirx.And(begun + number < length, inside)
        some = sequence([store(one, value(place), [number]) for one, value in zip(own, values, strict=True)])
        none = sequence([store(one, floats(0.0), [number]) for one in own])
        return sequence(
            [choose(inside, some, none), store(count, load(count, [0]) + tirx.Select(used(number), integer(1), integer(0)), [0])]
        )

    def noted(number: int) -> Any:
        entry = load(at, [0])
        stored = [store(places, start + begun + number, [entry])]
        if factors is not None:
            stored += [store(factors, load(one, [number]), [row, entry]) for row, one in enumerate(own)]
        return when(used(number), sequence([*stored, store(at, entry + 1, [0])]))

    return allocated(
        [first, at, *own],
        [
            store(count, integer(0), [0]),
            *(taken(number) for number in range(each)),
            block.placed(count, first),
            store(at, load(first, [0]), [0]),
            *(noted(number) for number in range(each)),
            synchronise(),
        ],
    )
