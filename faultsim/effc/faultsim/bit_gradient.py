"""What a flip of a bit promises: its first-order effect on the loss, by the gradient of the weight that holds it.

The gradient of a bit is that of the weight times the bit's own weight (A. S. Rakin, Z. He and D. Fan, "Bit-Flip Attack: Crushing Neural
Network with Progressive Bit Search", ICCV 2019, arXiv 1903.12269, eq. 5-7). In two's complement of n bits with scale s,

    w = s (-2^(n-1) B_(n-1) + sum_i 2^i B_i),   dL/dB_i = s 2^i dL/dw,   dL/dB_(n-1) = -s 2^(n-1) dL/dw,

and flipping B_i moves it by 1 - 2 B_i. The loss rises, to first order, by

    gain = (1 - 2 B_i) dL/dB_i = (w' - w) dL/dw

with w' the weight after the flip. A flip is considered only where this is positive: that is the mask of eq. 8, and the gain is then
|dL/dB_i|, by which the paper ranks. The right-hand side needs no two's complement, so it is what is computed, for every number view. A bit
of a floating-point exponent moves its weight far out of the range of a first-order estimate: there the gain only ranks, and the real loss
decides.

Values that are not finite rank as follows. A weight that becomes infinite gains +infinity or nothing, by its sign and the gradient's.
One that becomes NaN gains +infinity, whatever its gradient, unless that is zero: nothing that the loss sees depends on it then. A gradient
that is NaN counts as zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from effc.faultsim.formats import NumberView
from effc.faultsim.words import reach

__all__ = ["Offer", "bit_gains", "flipped", "largest", "offers"]


class Offer(NamedTuple):
    """A flip worth trying in one tensor.

    Attributes:
        gain: the rise of the loss that it promises; positive, may be infinite.
        element: number of the element in the flattened tensor. `bit`: 0 is the least significant one.
    """

    gain: float
    element: int
    bit: int


def flipped(view: NumberView, words: Tensor, bit: int) -> Tensor:
    """The words with one bit of each toggled: (k,), as `view.encode` makes them -> (k,), of its own memory."""
    count = len(words)
    every = reach(np.arange(count), np.full(count, bit), "flip", None, size=count, width=view.bits)
    raw = words.contiguous().numpy()
    return torch.from_numpy(every.changed(raw.view(f"u{raw.itemsize}")).view(raw.dtype))


def bit_gains(view: NumberView, words: Tensor, gradient: Tensor, bits: Sequence[int]) -> Tensor:
    """The first-order rise of the loss when one bit is flipped, for every element and bit.

    Args:
        view: how `words` hold weights.
        words: (k,), as `view.encode` makes them.
        gradient: of the loss by the weights: (k,), floating point.
        bits: b bit positions below `view.bits`.

    Returns:
        (k, b) float64; 0 where the gradient is zero or NaN; negative where the loss falls.
    """
    slope = gradient.double().nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)
    before = view.decode(words).double()
    columns = []
    for bit in bits:
        after = view.decode(flipped(view, words, bit)).double()
        gain = ((after - before) * slope).nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)
        gain[after.isnan()] = torch.inf
        columns.append(torch.where(slope == 0, 0.0, gain))
    return torch.stack(columns, 1)


def largest(values: Tensor, count: int) -> Tensor:
    """Positions of the `count` largest values, ascending; among equal ones those that come first. (n,) without NaN -> (min(n, count),)."""
    if count >= len(values):
        return torch.arange(len(values))
    least = torch.topk(values, count).values[-1]
    above = torch.nonzero(values > least)[:, 0]
    equal = torch.nonzero(values == least)[: count - len(above), 0]
    return torch.cat([above, equal]).sort().values


def offers(view: NumberView, words: Tensor, gradient: Tensor, bits: Sequence[int], candidates: int) -> list[Offer]:
    """The flips that raise the loss to first order, among the elements of steepest gradient, best first.

    Args:
        view, words, gradient, bits: as for `bit_gains`, of all elements of one tensor: (n,).
        candidates: how many elements are looked at: those of largest |dL/dw|.

    Returns:
        At most `candidates` times `bits`; equal gains in the order of element and bit.
    """
    elements = largest(gradient.abs().nan_to_num(nan=0.0, posinf=torch.inf), candidates)
    gains = bit_gains(view, words[elements], gradient[elements], bits).numpy()
    order = np.argsort(-gains, axis=None, kind="stable")
    rows, columns = np.unravel_index(order[: np.count_nonzero(gains > 0)], gains.shape)
    return [Offer(float(gains[row, column]), int(elements[row]), bits[column]) for row, column in zip(rows, columns, strict=True)]
