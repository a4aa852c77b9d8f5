"""Passes over rows on a device: top-k by order and by statistics, softmax, normalisations, of rows of any length."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.unit.lowering.cuda.on_host import computed, needs_host
from tests.unit.lowering.functions_of_torch import normal

pytestmark = needs_host
ops = torch.ops.effc
LENGTHS = (1, 2, 31, 33, 129, 1000)  # one warp, whole or not; several; several elements of a thread


class Functions(nn.Module):
    """Functions of an input each: one compilation for all."""

    def __init__(self, functions: list[Callable[[Tensor], Tensor]]) -> None:
        super().__init__()
        self.functions = functions

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        return [function(x) for function, x in zip(self.functions, inputs, strict=True)]


def check(cases: list[tuple[Callable[[Tensor], Tensor], Tensor]], tolerance: float) -> None:
    result = computed(Functions([function for function, _ in cases]), [x for _, x in cases])
    assert set(result.families) == {"rows"}
    for (function, x), got in zip(cases, result.outputs[0], strict=True):
        wanted = function(x).numpy()
        largest = float(np.abs(wanted[np.isfinite(wanted)]).max(initial=1e-30))
        np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * largest)


def test_top_k_of_any_length() -> None:
    check([(lambda x, k=k: ops.keep_top_k(x, k), normal(3, n)) for n in LENGTHS for k in {1, max(1, n // 3), n}], 0)


def test_top_k_of_ties_infinities_nan_and_both_zeros() -> None:
    special = [0.0, -0.0, 1.0, 1.0, -1.0, math.inf, -math.inf, 2.0] * 5
    x = torch.tensor([special, [-1.0] * 40, [3e-39, 1e-45, -1e-45, 0.0] * 10, [math.nan, *special[1:]]])
    check([(lambda x, k=k: ops.keep_top_k(x, k), x) for k in (1, 5, 6, 15, 20, 39, 40)], 0)


@pytest.mark.parametrize("form", [pytest.param("soft", marks=pytest.mark.slow), "hard", pytest.param("mask", marks=pytest.mark.slow)])
def test_statistical_top_k(form: str) -> None:
    check([(lambda x: ops.statistical_top_k(x, 0.7, form), normal(3, n) + 1.0) for n in LENGTHS[2:]], 2e-6)


def test_softmax_and_normalisation() -> None:
    cases = [(lambda x: torch.softmax(x, -1), normal(3, n, scale=3.0)) for n in LENGTHS]
    cases.append(
        (lambda x: torch.softmax(x, -1), torch.tensor([[math.nan, 1.0, 2.0], [math.inf, 1.0, 2.0], [-math.inf] * 3, [-math.inf, 0.0, 0.0]]))
    )
    cases += [(lambda x, n=n: nn.functional.layer_norm(x, (n,)), normal(2, 3, n) + 1.0) for n in LENGTHS[2:]]
    check(cases, 2e-6)


@pytest.mark.slow
def test_rows_that_no_registers_hold() -> None:
    """33,000 elements are more than 32 of each of 1,024 threads: what is kept goes through memory."""
    check([(lambda x: ops.keep_top_k(x, 500), normal(1, 33_000))], 0)
    check([(lambda x: torch.softmax(x, -1), normal(2, 33_000))], 2e-6)
