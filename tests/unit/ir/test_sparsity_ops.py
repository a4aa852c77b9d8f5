"""Thresholds and top-k at the values where implementations go wrong: ties, NaN, the threshold itself; and the counts of the papers."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
import torch
from torch import Tensor

from effc.ir.ops.keep_top_k import KEEP_TOP_K
from effc.ir.ops.sparsify import SPARSIFY
from effc.ir.ops.statistical_top_k import STATISTICAL_TOP_K

INF, NAN = math.inf, math.nan
sparsify, keep_top_k, statistical_top_k = (op.overload for op in (SPARSIFY, KEEP_TOP_K, STATISTICAL_TOP_K))
X = torch.tensor([-2.0, -1.0, -0.5, -0.0, 0.5, 1.0, 1.0000001, INF, -INF, NAN])


def same(got: Tensor, wanted: list[float]) -> bool:
    return torch.equal(torch.nan_to_num(got, nan=77.0), torch.nan_to_num(torch.tensor(wanted), nan=77.0))


def test_a_magnitude_at_its_threshold_is_dropped_and_a_value_at_its_threshold_is_kept() -> None:
    assert same(sparsify(X, torch.tensor(1.0), "magnitude"), [-2.0, 0, 0, 0, 0, 0, 1.0000001, INF, -INF, NAN])
    assert same(sparsify(X, torch.tensor(1.0), "value"), [0, 0, 0, 0, 0, 1.0, 1.0000001, INF, 0, NAN])


def test_threshold_0_changes_nothing() -> None:
    assert same(sparsify(X, torch.tensor(0.0), "magnitude"), X.tolist())


def test_wina_s_score_is_a_threshold_for_each_input() -> None:
    """Keep |x_i| * norm_i > T (arXiv 2505.19427), written with one threshold T / norm_i an input."""
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(5, 64, generator=generator), torch.randn(32, 64, generator=generator)
    norm, score = weight.norm(dim=0), 1.3 * weight.norm(dim=0).mean()
    assert torch.equal(sparsify(x, score / norm, "magnitude"), torch.where(x.abs() * norm > score, x, torch.zeros(())))


def test_the_k_largest_stay_and_ties_with_the_kth_stay_too() -> None:
    x = torch.tensor([[3.0, 1.0, 2.0, 2.0, -1.0], [1.0, 1.0, 1.0, 1.0, 1.0], [NAN, -5.0, 4.0, -6.0, INF], [NAN, NAN, NAN, NAN, 1.0]])
    assert [
        same(row, wanted)
        for row, wanted in zip(keep_top_k(x, 2), [[3.0, 0, 2, 2, 0], [1.0] * 5, [NAN, 0, 4, 0, INF], [NAN] * 4 + [1.0]], strict=True)
    ] == [True] * 4
    assert same(keep_top_k(x, 5).flatten(), x.flatten().tolist())


@pytest.mark.parametrize("k", [0, 6])
def test_k_outside_of_a_row_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match="must be from 1 to the length of a row, 5"):
        keep_top_k(torch.zeros(2, 5), k)


def test_the_forms_of_the_statistical_top_k() -> None:
    x = torch.tensor([1.0, 2.0, 3.0, 6.0])  # mean 3, standard deviation sqrt(3.5)
    theta = 3 + 0.5 * math.sqrt(3.5)
    torch.testing.assert_close(statistical_top_k(x, 0.5, "soft"), torch.tensor([0, 0, 0, 6 - theta]))
    assert same(statistical_top_k(x, 0.5, "hard"), [0, 0, 0, 6.0])
    assert same(statistical_top_k(x, 0.5, "mask"), [-INF, -INF, -INF, 6.0])
    broken = torch.tensor([1.0, NAN, 3.0, 6.0])
    assert same(statistical_top_k(broken, 0.5, "soft"), [NAN] * 4)
    assert same(statistical_top_k(broken, 0.5, "hard"), broken.tolist())


def rows(kind: str, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    if kind == "gaussian":
        return torch.randn(200, length, generator=generator)
    if kind == "laplace":
        signs = torch.randint(0, 2, (200, length), generator=generator) * 2 - 1
        return torch.empty(200, length).exponential_(generator=generator) * signs
    if kind == "student-5":
        chi = torch.randn(200, length, 5, generator=generator).square().sum(-1)
        return torch.randn(200, length, generator=generator) / (chi / 5).sqrt()
    return torch.randn(200, length, generator=generator) ** 3


@pytest.mark.parametrize(
    ("kind", "length", "k", "kept"),
    [
        ("gaussian", 13824, 1106, 1106),
        ("laplace", 13824, 1106, 950),
        ("student-5", 13824, 1106, 896),
        ("cubed", 13824, 1106, 543),
        ("gaussian", 256, 32, 32),
    ],
)
def test_how_many_a_statistical_top_k_keeps(kind: str, length: int, k: int, kept: int) -> None:
    """Right for Gaussian rows only: heavy tails raise the deviation and with it the threshold."""
    deviations = NormalDist().inv_cdf(1 - k / length)
    found = (statistical_top_k(rows(kind, length), deviations, "soft") > 0).sum(-1).double().mean()
    assert abs(float(found) - kept) < 0.02 * kept


@pytest.mark.parametrize("form", ["soft", "hard", "mask"])
def test_the_gradient_of_the_statistical_top_k_is_the_derivative(form: str) -> None:
    x = torch.randn(3, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(2), requires_grad=True)

    def finite(x: Tensor) -> Tensor:
        return torch.nan_to_num(statistical_top_k(x, 0.4, form), neginf=0.0)

    assert torch.autograd.gradcheck(finite, (x,))


def test_thresholds_and_top_k_hand_gradients_to_what_they_keep() -> None:
    x = torch.tensor([0.5, -2.0, 1.0, 3.0], requires_grad=True)
    weight = torch.tensor([1.0, 2.0, 4.0, 8.0])
    (sparsify(x, torch.tensor(0.9), "magnitude") * weight).sum().backward()
    (keep_top_k(x, 2) * weight * 16).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 2.0, 4.0 + 64.0, 8.0 + 128.0]


def test_torch_s_own_checks_of_custom_ops_hold() -> None:
    x = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    torch.library.opcheck(sparsify, (x, torch.rand(8), "magnitude"))
    torch.library.opcheck(keep_top_k, (x, 3))
    torch.library.opcheck(statistical_top_k, (x, 0.5, "soft"))
