"""The k-th largest element of a row, exactly, in 32 passes that only count: no order, no memory, whole vectors.

A float32's bits, read as an integer whose negative half is mirrored, are ordered like the numbers themselves. The largest such key that
at least k elements reach is that of the k-th largest element, and its bits are found one after another, the sign first: the key with the
next bit set is kept where k elements still reach it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from effc.lowering.kernels.code import allocated, choose, floats, integer, load, local, loop, sequence, store

__all__ = ["kth_largest"]

_LEAST = -(1 << 31)
_MAGNITUDE = 0x7FFFFFFF


def kth_largest(k: int, number: Any, count: Callable[[Any, Any, bool], Any], place: Callable[[int, str, str], Any] = local) -> Any:
    """The statement that stores the k-th largest element in `number`, a local buffer of one float32.

    With fewer than k elements that are numbers it stores NaN, which nothing is smaller than.

    Args:
        k: from 1 to the length of the row.
        number: where the result goes.
        count: `(bound, into, whether it is the first pass) -> statement`: how many elements are at least `bound`, an expression, as a
            float32 into the local buffer `into`. NaN, as an element or as the bound, reaches nothing.
        place: makes the local buffers, of (elements, name, type).
    """
    from tvm import tirx

    key, trial = place(1, "key", "int32"), place(1, "trial", "int32")
    bound, found = place(1, "bound", "float32"), place(1, "found", "float32")

    def number_of(key: Any) -> Any:
        mirrored = tirx.bitwise_and(tirx.shift_right(key, integer(31)), integer(_MAGNITUDE))
        return tirx.reinterpret("float32", tirx.bitwise_xor(key, mirrored))

    def tried(first: bool) -> list[Any]:
        return [
            store(bound, number_of(load(trial, [0])), [0]),
            count(load(bound, [0]), found, first),
            choose(load(found, [0]) >= floats(float(k)), store(key, load(trial, [0]), [0]), tirx.Evaluate(integer(0))),
        ]

    def bit(passed: Any) -> Any:
        mark = tirx.shift_left(integer(1), integer(30) - passed)
        return sequence([store(trial, load(key, [0]) + mark, [0]), *tried(False)])

    start = [store(key, integer(_LEAST), [0]), store(trial, integer(0), [0]), *tried(True)]
    return allocated([key, trial, bound, found], [*start, loop(31, bit, name="bit"), store(number, number_of(load(key, [0])), [0])])
