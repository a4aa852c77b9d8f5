"""Thresholds, top-k and statistical top-k in compiled code: the numbers of the operators' own definitions."""

from __future__ import annotations

import math

import pytest
import torch

from effc.targets import Target, find_target
from tests.unit.lowering.functions_of_torch import TARGETS, Case, check, families, normal

LENGTHS = (1, 2, 7, 16, 17, 33, 172, 1000)
ops = torch.ops.effc


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_top_k_of_any_length(target: Target) -> None:
    cases: dict[str, Case] = {}
    for length in LENGTHS:
        for k in sorted({1, max(1, length // 3), length}):
            cases[f"{k} of {length}"] = (lambda x, k=k: ops.keep_top_k(x, k), [normal(3, length)])
    assert set(families(check(cases, target, tolerance=0))) == {"rows"}


def test_top_k_of_ties_infinities_and_both_zeros() -> None:
    x = torch.tensor([[0.0, -0.0, 1.0, 1.0, -1.0, math.inf, -math.inf, 2.0] * 5, [-1.0] * 40, [3e-39, 1e-45, -1e-45, 0.0] * 10])
    cases: dict[str, Case] = {f"{k}": (lambda x, k=k: ops.keep_top_k(x, k), [x]) for k in (1, 5, 6, 15, 20, 39, 40)}
    check(cases, find_target("cpu"), tolerance=0)


def test_top_k_behind_an_activation_in_front_of_others_and_of_one_row() -> None:
    cases: dict[str, Case] = {
        "relu": (lambda x: ops.keep_top_k(torch.relu(x), 9), [normal(4, 50)]),
        "silu, scaled": (lambda x: ops.keep_top_k(torch.nn.functional.silu(x), 9) * 2.0 + 1.0, [normal(4, 50)]),
        "one row": (lambda x: ops.keep_top_k(x, 9), [normal(50)]),
        "three axes": (lambda x: ops.keep_top_k(x, 3), [normal(2, 3, 20)]),
        "float64": (lambda x: ops.keep_top_k(x, 3), [normal(2, 20).double()]),
    }
    check(cases, find_target("cpu"))


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_statistical_top_k(target: Target) -> None:
    cases: dict[str, Case] = {}
    for length in LENGTHS[2:]:
        for form in ("soft", "hard", "mask"):
            cases[f"{form} {length}"] = (lambda x, form=form: ops.statistical_top_k(x, 0.7, form), [normal(3, length) + 1.0])
    assert set(families(check(cases, target))) == {"rows"}


def test_thresholds() -> None:
    cases: dict[str, Case] = {
        "one": (lambda x, t: ops.sparsify(x, t, "magnitude"), [normal(3, 40), torch.tensor(0.6)]),
        "one an input": (lambda x, t: ops.sparsify(x, t, "magnitude"), [normal(3, 40), normal(40, seed=1).abs()]),
        "one a channel": (lambda x, t: ops.sparsify(torch.relu(x), t, "value"), [normal(2, 5, 4, 4), normal(5, 1, 1, seed=1).abs()]),
        "not a number": (lambda x, t: ops.sparsify(x, t, "magnitude"), [torch.tensor([math.nan, 1.0, math.inf, -0.1]), torch.tensor(0.5)]),
    }
    check(cases, find_target("cpu"), tolerance=0)
