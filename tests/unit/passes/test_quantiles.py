"""Quantiles from counts, against those of all numbers at once."""

from __future__ import annotations

import math

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from effc.passes.quantiles import Quantiles

FLOATS = arrays.arrays(np.float32, st.integers(1, 60), elements=st.floats(-1e6, 1e6, width=32))


@settings(max_examples=60, deadline=None)
@given(values=FLOATS, share=st.floats(0, 1))
def test_the_wanted_share_is_under_a_quantile_but_for_one_bin(values: np.ndarray, share: float) -> None:
    counts = Quantiles()
    for part in np.array_split(values, 3):
        counts.add(torch.from_numpy(part.copy()))
    found = float(counts.quantile(share)[0])
    magnitudes = np.abs(values.astype(np.float64))
    near = (np.abs(magnitudes - found) <= magnitudes * 2.0**-7) | (magnitudes <= 2.0**-39)
    low, high = (magnitudes < found)[~near].sum(), ((magnitudes <= found) | near).sum()
    assert low - 1e-9 <= share * len(values) <= high + 1e-9 or found == 0
    assert counts.totals.tolist() == [len(values)]


def test_quantiles_of_numbers_that_have_bins_of_their_own() -> None:
    counts = Quantiles()
    counts.add(torch.arange(1.0, 11.0))
    for rank in range(1, 11):  # a bin ends at the next of 2^7 numbers of an octave
        end = rank + 2.0 ** (math.floor(math.log2(rank)) - 7)
        assert float(counts.quantile(rank / 10)[0]) == pytest.approx(end, abs=1e-12)
    counts.add(torch.zeros(10))
    assert float(counts.quantile(0.5)[0]) == 0.0 and counts.zeros.tolist() == [10]
    assert float(counts.quantile(0.0)[0]) == 0.0
    assert float(Quantiles().quantile(0.5)[0]) == 0.0


def test_rows_signs_and_histograms() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 20_000, generator=generator) * torch.tensor([[1.0], [100.0], [0.0]])
    rows = Quantiles(3, mantissa=4)
    rows.add(x)
    exact = x.double().abs().quantile(torch.tensor([0.3, 0.8, 0.5], dtype=torch.float64), dim=1).diagonal()
    torch.testing.assert_close(rows.quantile(torch.tensor([0.3, 0.8, 0.5])), exact, rtol=0.01, atol=0)
    signed = Quantiles(signed=True)
    signed.add(x[0])
    for share in (0.02, 0.4, 0.97):
        assert float((x[0] <= signed.quantile(share)).float().mean()) == pytest.approx(share, abs=0.002)
    counts = Quantiles()
    counts.add(torch.cat([x[0], torch.zeros(20_000)]))
    shares = counts.histogram(4, 2.0)
    exact_shares = [float(((x[0].abs() > 0.5 * bin_) & (x[0].abs() <= 0.5 * (bin_ + 1))).float().mean()) / 2 for bin_ in range(4)]
    assert shares == pytest.approx(exact_shares, abs=0.002)
