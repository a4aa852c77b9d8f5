"""Quantiles of more numbers than fit into memory, in one pass and without a random sample.

Numbers are counted in bins of equal relative width: a bin is named by a float's exponent and the first `mantissa` bits behind it, so
finding it is a shift of the number's bits, and the bins are the same for all data. A quantile is interpolated inside of its bin: with 7
bits a bin is 2^-7 of its value wide, and the share of numbers under a quantile differs from the wanted one by less than the share that
one bin holds. Magnitudes under 2^-40 are counted as zero, those over 2^40 as 2^40.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Quantiles"]

_OCTAVES = 40  # on both sides of 1
_FRACTION_BITS = 23  # of a float32
_BIAS = 127
_AT_ONCE = 1 << 20  # numbers of a row that are counted at once: an index takes eight bytes


class Quantiles:
    """Counts of numbers, in `rows` independent rows.

    Args:
        rows: 1 for one quantile a layer, the number of channels for one a channel.
        mantissa: bits that tell bins of one octave apart, 0 to 16; memory is rows * 80 * 2^mantissa * 8 bytes.
        signed: False for magnitudes (`add` takes them absolutely), True for numbers of both signs.
    """

    def __init__(self, rows: int = 1, *, mantissa: int = 7, signed: bool = False) -> None:
        self._shift = _FRACTION_BITS - mantissa
        self._base = (_BIAS - _OCTAVES) << mantissa
        self._size = ((2 * _OCTAVES) << mantissa) + 1
        self._signed = signed
        starts = (torch.arange(self._size, dtype=torch.int32) + self._base << self._shift).view(torch.float32).double()
        edges = torch.cat([torch.zeros(1, dtype=torch.float64), starts])
        self._edges = torch.cat([-edges.flip(0), edges[1:]]) if signed else edges
        self._counts = torch.zeros(rows, len(self._edges) - 1, dtype=torch.int64)

    def add(self, values: Tensor) -> None:
        """Count numbers: finite, of any float dtype and shape, or (rows, n) where there are several rows."""
        flat = values.detach().reshape(len(self._counts), -1)
        for start in range(0, flat.shape[1], _AT_ONCE):
            self._count(flat[:, start : start + _AT_ONCE].float().contiguous())

    def _count(self, flat: Tensor) -> None:
        rows, bins = self._counts.shape
        index = ((flat.abs().view(torch.int32) >> self._shift) - (self._base - 1)).clamp(0, self._size - 1).long()
        if self._signed:
            index = torch.where(flat < 0, self._size - 1 - index, self._size + index)
        index += torch.arange(rows)[:, None] * bins
        self._counts += torch.bincount(index.flatten(), minlength=rows * bins).view(rows, bins)

    @property
    def totals(self) -> Tensor:
        """How many numbers each row has seen, int64 (rows,)."""
        return self._counts.sum(1)

    @property
    def zeros(self) -> Tensor:
        """How many of them are zero, int64 (rows,). Only for magnitudes."""
        return self._counts[:, 0]

    def quantile(self, share: float | Tensor) -> Tensor:
        """The number at or under which a share of each row lies.

        Args:
            share: in [0, 1]; one for all rows, or (rows,).

        Returns:
            float64 (rows,). 0 for a row that has seen nothing, and where the wanted share of magnitudes are zeros.
        """
        sums = self._counts.cumsum(1)
        wanted = torch.as_tensor(share, dtype=torch.float64) * sums[:, -1]
        bin_ = (sums < wanted[:, None]).sum(1).clamp(max=sums.shape[1] - 1)
        inside = self._counts.gather(1, bin_[:, None])[:, 0]
        before = sums.gather(1, bin_[:, None])[:, 0] - inside
        part = ((wanted - before) / inside.clamp(min=1)).clamp(0, 1)
        low, high = self._edges[bin_], self._edges[bin_ + 1]
        found = low + part * (high - low)
        return torch.where((found.abs() <= 2.0**-_OCTAVES) | (sums[:, -1] == 0), 0.0, found)

    def histogram(self, bins: int, upper: float) -> list[float]:
        """The shares of all magnitudes, over all rows, in equal bins from 0 (itself left out) to `upper`."""
        cumulative = torch.cat([torch.zeros(1, dtype=torch.float64), self._counts.sum(0)[1:].cumsum(0).double()])
        places = torch.linspace(0, upper, bins + 1, dtype=torch.float64)
        edges = self._edges[1:]
        right = torch.searchsorted(edges, places).clamp(1, len(edges) - 1)
        low, high = edges[right - 1], edges[right]
        part = ((places - low) / (high - low)).clamp(0, 1)
        at = cumulative[right - 1] + part * (cumulative[right] - cumulative[right - 1])
        return [float(one) for one in at.diff() / max(1, int(self._counts.sum()))]
