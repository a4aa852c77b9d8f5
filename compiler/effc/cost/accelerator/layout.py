"""Where tensors lie in a memory beside the array, by the same decision that says what stays there (`effc.cost.accelerator.memory`).

- Weights of all layers that fit together stay: they lie one after the other, and no two share a word, but layers with the same weights
  (`effc.cost.accelerator.naming.stored_as`) read the same words.
- Else tensors come and go. The memory is double buffered: layer after layer takes the two halves by turns, from the start of a half; what
  is larger than a half goes on, part by part, in the other one. The second buffer begins where the largest part in the first one ends.

Inputs of layers always come and go: a layer reads one buffer and fills the other. (Where a network branches a value lives longer than that;
its copy for the layer that is computed is what counts here.)
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from effc.cost.accelerator.description import Accelerator

__all__ = ["Layout", "Part", "laid_out", "weights_stay"]


@dataclass(frozen=True)
class Part:
    """Elements `first` to `first + count - 1` of a tensor, from address `start` on."""

    start: int
    first: int
    count: int


@dataclass(frozen=True)
class Layout:
    """A memory's contents over one call.

    Attributes:
        words: that any tensor uses: addresses 0 to words - 1. tensors: the parts of each.
    """

    words: int
    tensors: tuple[tuple[Part, ...], ...]

    def elements(self, tensor: int, address: int) -> tuple[int, ...]:
        """What of a tensor is in a word, one after the other; () where nothing is."""
        return tuple(part.first + address - part.start for part in self.tensors[tensor] if 0 <= address - part.start < part.count)


def weights_stay(elements: int, accelerator: Accelerator) -> bool:
    """Whether the stored weights of all layers stay on the chip from call to call. `elements`: of all of them, shared ones once."""
    return elements * accelerator.bytes.weight <= accelerator.sram.weights


def laid_out(sizes: Sequence[int], words: int, *, stay: bool, names: Sequence[Hashable] | None = None) -> Layout:
    """Tensors of these sizes, in order of execution, in a memory of that many words.

    Args:
        sizes: elements of each, which take a word. `words`: of the memory; at least 2, of which each half has one, or `stay`.
        stay: whether they all stay; they must fit then.
        names: of each; what has the same one is the same tensor, and stays once. All are different where None. (What comes and goes comes
            each time anew.)
    """
    if stay:
        starts: dict[Hashable, int] = {}
        taken_words, parts = 0, []
        for name, size in zip(range(len(sizes)) if names is None else names, sizes, strict=True):
            if name not in starts:
                starts[name], taken_words = taken_words, taken_words + size
            parts.append((Part(starts[name], 0, size),))
        return Layout(taken_words, tuple(parts))
    half, turn = max(1, words // 2), 0
    taken, halves = [0, 0], []
    for size in sizes:
        found = []
        for first in range(0, size, half):
            count = min(half, size - first)
            taken[turn] = max(taken[turn], count)
            found.append((turn, first, count))
            turn = 1 - turn
        halves.append(found)
    return Layout(sum(taken), tuple(tuple(Part(taken[0] * which, first, count) for which, first, count in found) for found in halves))
