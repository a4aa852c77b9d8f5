"""`l1` and `hoyer_square` at the values where they go wrong: zeros, extremes of the number range, half precision."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from effc.errors import UsageError
from effc.nn import hoyer_square, l1


def test_values_per_sample_averaged_over_the_batch() -> None:
    x = torch.tensor([[[3.0, -4.0], [0.0, 0.0]], [[0.0, 0.0], [5.0, 0.0]]])
    assert l1(x).item() == (7 + 5) / 2
    assert hoyer_square(x).item() == pytest.approx((49 / 25 + 1) / 2)


def test_a_sample_of_zeros_costs_nothing_and_gives_no_nan() -> None:
    x = torch.zeros(2, 3)
    x[1] = torch.tensor([1.0, 1.0, 0.0])
    x.requires_grad_()
    loss = hoyer_square(x)
    loss.backward()
    assert loss.item() == 1.0  # (0 + 2) / 2
    assert torch.equal(x.grad, torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))  # two equal elements: a maximum along their plane


def test_the_gradient_is_that_of_the_formula() -> None:
    x = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(hoyer_square, (x,))
    assert torch.autograd.gradcheck(l1, (x,))


@given(st.floats(-36, 36), st.integers(1, 9), st.integers(0, 9))
def test_equal_elements_are_counted_at_any_scale(exponent: float, nonzero: int, zeros: int) -> None:
    sample = torch.cat([torch.full((nonzero,), 10.0**exponent), torch.zeros(zeros)])
    assert hoyer_square(torch.stack([sample, -sample])).item() == pytest.approx(nonzero, rel=1e-5)


def test_half_precision_is_summed_in_float32() -> None:
    x = torch.full((1, 4000), 20.0, dtype=torch.float16)  # the sum is over float16's largest number
    assert l1(x).item() == 80000.0
    assert hoyer_square(x).item() == pytest.approx(4000)


def test_what_is_no_batch_of_activations_is_refused() -> None:
    for x in (torch.tensor(1.0), torch.empty(0, 3), torch.ones(2, 2, dtype=torch.int64)):
        with pytest.raises(UsageError, match="a batch of floating-point activations"):
            l1(x)
