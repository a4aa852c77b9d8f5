"""What the threads of a block find out together: a reduction that all of them know the result of, and places in a list.

reduced   lanes of a warp in a tree, then the warps' results in a tree; always the same order, so always the same bits
placed    how many entries the threads in front have, and how many there are
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from effc.lowering.kernels.code import allocated, choose, integer, load, sequence, store
from effc.lowering.kernels.cuda.code import WARP, registers, shared, shuffled, shuffled_up, shuffled_xor, synchronise, when

__all__ = ["Block", "across_warp"]

Combine = Callable[[Any, Any], Any]


class Block:
    """The threads of a block, at most 32 warps.

    Attributes:
        threads: how many, a multiple of a warp.
        thread, lane, warp: expressions: which one of the block, of its warp, and which warp.
    """

    def __init__(self, threads: int, thread: Any) -> None:
        self.threads, self.warps = threads, threads // WARP
        self.thread, self.lane, self.warp = thread, thread % WARP, thread // WARP

    def reduced(self, number: Any, combine: Combine, neutral: Any) -> Any:
        """The statement that puts all threads' `number`, a register, together, for every thread."""
        if self.warps == 1:
            return sequence([across_warp(number, combine), self._agreed(number)])
        dtype = str(number.dtype)
        parts = shared((self.warps,), "parts", dtype)
        own = load(number, [0])
        taken = choose(
            self.lane < self.warps,
            store(number, load(parts, [self.lane]), [0]),
            store(number, neutral, [0]),
        )
        return allocated(
            [parts],
            [
                across_warp(number, combine),
                when(self.lane.equal(0), store(parts, own, [self.warp])),
                synchronise(),
                taken,
                across_warp(number, combine),
                self._agreed(number),
                synchronise(),
            ],
        )

    @staticmethod
    def _agreed(number: Any) -> Any:
        """Lanes combine in orders of their own, which tells where a comparison meets NaN: the first one's result is everyone's."""
        return store(number, shuffled(load(number, [0]), integer(0)), [0])

    def placed(self, count: Any, first: Any) -> Any:
        """The statement that stores in `first` how many entries the threads in front have, and in `count` (a thread's own before) all."""
        running, lower = registers(1, "running", "int32"), registers(1, "lower", "int32")
        steps = [store(running, load(count, [0]), [0])]
        for by in _powers():
            arrived = store(lower, shuffled_up(load(running, [0]), by), [0])
            steps += [arrived, when(self.lane >= by, store(running, load(running, [0]) + load(lower, [0]), [0]))]
        steps.append(store(first, load(running, [0]) - load(count, [0]), [0]))
        if self.warps == 1:
            steps.append(store(count, shuffled(load(running, [0]), integer(WARP - 1)), [0]))
            return allocated([running, lower], steps)
        parts = shared((self.warps,), "entries", "int32")
        one = registers(1, "one", "int32")

        def summed(into: Any, limit: Any, held: Any) -> list[Any]:
            taken = choose(self.lane < limit, store(one, load(parts, [self.lane]), [0]), store(one, integer(0), [0]))
            return [taken, across_warp(one, lambda a, b: a + b), store(into, held + load(one, [0]), [0])]

        steps += [
            when(self.lane.equal(WARP - 1), store(parts, load(running, [0]), [self.warp])),
            synchronise(),
            *summed(first, self.warp, load(first, [0])),
            *summed(count, integer(self.warps), integer(0)),
            synchronise(),
        ]
        return allocated([running, lower, parts, one], steps)


def across_warp(number: Any, combine: Combine) -> Any:
    """All lanes of a warp combined, in every lane."""
    own = load(number, [0])
    other = registers(1, "other", str(number.dtype))
    steps = []
    for by in reversed(_powers()):
        steps += [store(other, shuffled_xor(own, by), [0]), store(number, combine(own, load(other, [0])), [0])]
    return allocated([other], steps)


def _powers() -> list[int]:
    return [1 << bit for bit in range(WARP.bit_length() - 1)]
