"""Bits of words: toggle them, or set them, many at once.

A fault is given as pairs (element, bit). `Reach` gathers them by element, so that several bits of one word become one mask and a change is
one XOR, or one AND and one OR, over the reached words alone. Words are unsigned here: a mask of bit 31 is a plain number.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from effc.errors import ConfigError, InternalError
from effc.faultsim.faults import EFFECTS, Effect

__all__ = ["Reach", "Words", "bits_changed", "reach"]

Words = NDArray[np.unsignedinteger]

_TOGGLES = ("flip", "burst")
_ONE = np.uint64(1)
_WIDEST = 64


@dataclass(frozen=True, eq=False)
class Reach:
    """The elements that a fault reaches, and what happens to their bits.

    Attributes:
        elements: flat indices, ascending, all different: (n,) int64.
        mask: the bits reached in each: (n,) uint64.
        ones: the reached bits that become 1, the others become 0: (n,) uint64. None: reached bits are toggled.
        bits: how many bits are reached in all.
        width: bits of a word.
    """

    elements: NDArray[np.int64]
    mask: NDArray[np.uint64]
    ones: NDArray[np.uint64] | None
    bits: int
    width: int

    def changed(self, words: Words) -> Words:
        """The faulty words.

        Args:
            words: the words of `elements`, unsigned: (n,). Those narrower than their type are sign-extended, and so are the results.
        """
        dtype = words.dtype.type
        mask = self.mask.astype(dtype)
        faulty = words ^ mask if self.ones is None else (words & ~mask) | self.ones.astype(dtype)
        if self.width < 8 * words.itemsize:
            sign = dtype(1 << (self.width - 1))
            faulty = ((faulty & dtype((1 << self.width) - 1)) ^ sign) - sign  # wraps around: that is the sign extension
        return faulty


def bits_changed(before: Words, after: Words, mask: NDArray[np.uint64]) -> int:
    """Bits under the mask that differ, summed over all words."""
    return int(np.bitwise_count((before ^ after) & mask.astype(before.dtype)).sum())


def reach(
    elements: NDArray[np.int64], bits: NDArray[np.int64], effect: Effect, values: NDArray[np.bool_] | None, *, size: int, width: int
) -> Reach:
    """Gather a fault's bits by element.

    `flip` and `burst` toggle every bit listed, `stuck-at-0` and `stuck-at-1` set it, `random` gives it its value.

    Args:
        elements, bits: what is reached, in any order: (k,) each; k may be 0. An element may come several times, a pair only once.
        effect: one of EFFECTS.
        values: for `random`, the value of each bit: (k,) bool; None for others.
        size: elements of the tensor.
        width: bits of a word.

    Raises:
        ConfigError: no such effect.
        InternalError: arrays of different lengths, an element or bit out of range, a pair listed twice (two flips of one bit would cancel).
    """
    if effect not in EFFECTS:
        raise ConfigError(f"there is no fault effect {effect!r}; known: {', '.join(EFFECTS)}")
    if elements.shape != bits.shape or elements.ndim != 1 or (effect == "random") != (values is not None):
        raise InternalError(f"a fault of effect {effect} needs one bit for each element, and values for `random` alone")
    if values is not None and values.shape != bits.shape:
        raise InternalError(f"{bits.size} random bits with {values.size} values")
    if not bits.size:
        nothing = np.zeros(0, np.uint64)
        return Reach(np.zeros(0, np.int64), nothing, None if effect in _TOGGLES else nothing, 0, width)
    if bits.min() < 0 or bits.max() >= width or elements.min() < 0 or elements.max() >= size:
        raise InternalError(
            f"a fault reaches elements {elements.min()} to {elements.max()}, bits {bits.min()} to {bits.max()}; "
            f"the tensor has {size} elements of {width} bits"
        )
    if bits.size > 1:
        key = elements * _WIDEST + bits
        if (key[1:] <= key[:-1]).any():
            order = np.argsort(key)
            elements, bits, key = elements[order], bits[order], key[order]
            values = None if values is None else values[order]
            twice = key[1:] == key[:-1]
            if twice.any():
                at = int(twice.argmax())
                raise InternalError(f"a fault lists bit {bits[at]} of element {elements[at]} twice")
    starts = np.flatnonzero(np.concatenate(([True], elements[1:] != elements[:-1])))
    each = _ONE << bits.astype(np.uint64)
    mask = np.bitwise_or.reduceat(each, starts)
    ones = None
    if effect == "stuck-at-0":
        ones = np.zeros_like(mask)
    elif effect == "stuck-at-1":
        ones = mask
    elif values is not None:
        ones = np.bitwise_or.reduceat(each * values, starts)
    return Reach(elements[starts], mask, ones, int(bits.size), width)
