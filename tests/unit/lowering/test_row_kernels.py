"""Softmax and normalisations along rows of any length: the numbers of torch, and of infinities what torch makes of them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from effc.targets import Target, find_target
from tests.unit.lowering.functions_of_torch import TARGETS, Case, check, families, normal

NAN, INF = float("nan"), float("inf")
LENGTHS = (1, 2, 7, 16, 31, 64, 197, 1000, 1009)


def by_target(target: Target) -> str:
    return target.name


@pytest.mark.parametrize("target", TARGETS, ids=by_target)
def test_softmax_of_any_length(target: Target) -> None:
    cases: dict[str, Case] = {}
    for length in LENGTHS:
        cases[f"softmax {length}"] = (lambda x: torch.softmax(x, -1), [normal(3, length, scale=4.0)])
        cases[f"log_softmax {length}"] = (lambda x: F.log_softmax(x, -1), [normal(2, 2, length, scale=4.0)])
    assert set(families(check(cases, target))) == {"rows"}


@pytest.mark.parametrize("target", TARGETS, ids=by_target)
def test_normalisations_of_any_length(target: Target) -> None:
    cases: dict[str, Case] = {}
    for length in LENGTHS[1:]:  # of one element nothing but rounding is left
        x, weight, bias = normal(5, length) + 3.0, normal(length, seed=1), normal(length, seed=2)
        cases[f"layer_norm {length}"] = (lambda x, w, b, n=length: F.layer_norm(x, (n,), w, b, 1e-6), [x, weight, bias])
        cases[f"layer_norm without bias {length}"] = (lambda x, w, n=length: F.layer_norm(x, (n,), w), [x, weight])
        cases[f"rms_norm {length}"] = (lambda x, w, n=length: F.rms_norm(x, (n,), w), [x, weight])
        cases[f"rms_norm without weight {length}"] = (lambda x, n=length: F.rms_norm(x, (n,), eps=1e-3), [x])
    assert "rows" in families(check(cases, target))


def test_a_vocabulary_long_row() -> None:
    x = normal(2, 50257, scale=3.0)
    cases: dict[str, Case] = {
        "softmax": (lambda x: torch.softmax(x, -1), [x]),
        "log_softmax": (lambda x: torch.log_softmax(x, -1), [x]),
        "layer_norm": (lambda x: F.layer_norm(x, (50257,)), [x]),
    }
    check(cases, find_target("cpu"))


def test_other_shapes_and_axes() -> None:
    x = normal(2, 3, 4, 5)
    cases: dict[str, Case] = {
        "the last two axes": (lambda x: F.layer_norm(x, (4, 5)), [x]),
        "all axes": (lambda x: F.layer_norm(x, (2, 3, 4, 5)), [x]),
        "all axes with weights": (lambda x, w, b: F.layer_norm(x, (2, 3, 4, 5), w, b), [x, normal(2, 3, 4, 5), normal(2, 3, 4, 5)]),
        "rms over two axes": (lambda x, w: F.rms_norm(x, (4, 5), w), [x, normal(4, 5)]),
        "one axis": (lambda x: torch.softmax(x, 0), [normal(9)]),
        "the first axis": (lambda x: torch.softmax(x, 0), [x]),
        "the axis in the middle": (lambda x: F.log_softmax(x, 2), [x]),
    }
    check(cases, find_target("cpu"))


def test_what_is_fused_behind() -> None:
    x, y = normal(6, 33), normal(6, 33, seed=1)
    cases: dict[str, Case] = {
        "softmax, relu": (lambda x: torch.relu(torch.softmax(x, -1) - 0.05), [x]),
        "log_softmax, scale": (lambda x: F.log_softmax(x, -1) * 2.0 + 1.0, [x]),
        "layer_norm, residual": (lambda x, y: F.layer_norm(x, (33,)) + y, [x, y]),
    }
    assert [family for family in families(check(cases, find_target("cpu"))) if family == "rows"] == ["rows"] * 3


def test_infinities_and_nan_go_where_torch_lets_them_go() -> None:
    rows = torch.tensor([[1.0, 2.0, NAN, 0.0], [-INF] * 4, [INF, 1.0, 2.0, 3.0], [-INF, 1.0, 2.0, -INF], [1e30, -1e30, 88.0, 1e30]])
    cases: dict[str, Case] = {}
    for length in (4, 40):  # shorter than a vector, longer than one
        x = rows.repeat(1, length // 4)
        cases[f"softmax {length}"] = (lambda x: torch.softmax(x, -1), [x])
        cases[f"log_softmax {length}"] = (lambda x: F.log_softmax(x, -1), [x[1:4]])
        cases[f"layer_norm {length}"] = (lambda x, n=length: F.layer_norm(x, (n,)), [x[:4]])
    check(cases, find_target("cpu"))


def test_the_variance_is_taken_from_centred_values() -> None:
    """The mean of the squares minus the square of the mean is off by percents here."""
    cases: dict[str, Case] = {"far from 0": (lambda x: F.layer_norm(x, (256,)), [normal(4, 256) + 1e3])}
    check(cases, find_target("cpu"), tolerance=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_types(dtype: torch.dtype) -> None:
    x: Tensor = normal(3, 20).to(dtype)
    cases: dict[str, Case] = {
        "softmax": (lambda x: torch.softmax(x, -1), [x]),
        "layer_norm": (lambda x: F.layer_norm(x, (20,)), [x]),
        "rms_norm": (lambda x: F.rms_norm(x, (20,)), [x]),
    }
    check(cases, find_target("cpu"), tolerance=1e-5 if dtype == torch.float64 else 2e-3)
