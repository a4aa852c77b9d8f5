"""The benchmark of cross targets: what a self-test printed is read right, and what was not measured is missed."""

from __future__ import annotations

import math
from typing import Any

import pytest

from benchmarks import cross_targets
from benchmarks.cross_targets import Measured, largest_error, tensors
from benchmarks.cross_targets_page import parts
from benchmarks.embedded_networks import NETWORKS
from benchmarks.harness import Options

PASSED = "a/b:0: 16384 elements, error 0 logits: 10 elements, error 4.06e-07 PASS: largest error 4.06e-07, allowed 0.0001"
FAILED = (
    "the self-test failed under qemu with code 1: q: 80 elements, error inf r: 3 elements, error 0 FAIL: largest error inf, allowed 0.0001"
)


def test_what_a_self_test_printed() -> None:
    assert (largest_error(PASSED), tensors(PASSED)) == (4.06e-07, [(16384, 0.0), (10, 4.06e-07)])
    assert (largest_error(FAILED), tensors(FAILED)) == (math.inf, [(80, math.inf), (3, 0.0)])
    assert largest_error("killed") == math.inf
    with pytest.raises(RuntimeError, match="killed"):
        tensors("killed")


def test_what_was_not_measured_is_missed() -> None:
    integers = next(network for network in NETWORKS if network.integers)
    assert [claim.holds for claim in Measured(integers, "t", count=True).claims] == [False] * 3
    assert [claim.holds for claim in Measured(integers, "t", count=False).claims] == [False] * 2
    assert [claim.holds for claim in Measured(integers, "t", count=True, error=1e-5, wrong=0, ratio=1.3).claims] == [True] * 3
    assert [claim.holds for claim in Measured(integers, "t", count=True, error=1e-3, wrong=1, ratio=1.2).claims] == [False] * 3


def test_a_network_that_fails_misses_its_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("no code")

    monkeypatch.setattr(cross_targets, "_missing", lambda target: "")
    monkeypatch.setattr(cross_targets, "compile_model", fails)
    monkeypatch.setattr(cross_targets, "NETWORKS", [network for network in NETWORKS if network.name == "digits"])
    outcome = cross_targets.measure(Options(quick=True))
    assert [(claim.name, claim.holds) for claim in outcome.claims] == [
        ("digits, hexagon-v67: error", False),
        ("digits, riscv64-v256: error", False),
        ("self-tests under QEMU that did not end with 0, of 2 networks", False),
    ]
    page = parts([outcome.as_json({"quick": False})])["claims"]
    assert page.startswith("0 of 3 claims hold.")
    assert "Missed: digits, hexagon-v67: error: not measured, needed at most 0.0001." in page
    assert "digits: hexagon-v67: RuntimeError: no code." in page
