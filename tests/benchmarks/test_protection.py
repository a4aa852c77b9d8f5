"""The benchmarks of protection and pruning: equal budgets, honest pairs, and what they say where the data are missing."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks import ap, proact, results_page
from benchmarks.ap_training import BATCH, NETWORKS, images
from benchmarks.harness import Options, Outcome
from effc.passes import parse_passes


def test_cycles_reach_exactly_the_shares_that_are_shown() -> None:
    left, reached = 1.0, []
    for share in ap.shares():
        left *= 1 - share
        reached.append(left)
        assert 0.19 < share < 0.22  # about 20 %, the paper's
    for target in ap.SHOWN:
        assert any(math.isclose(target, one) for one in reached)
    assert math.isclose(left, ap.SHOWN[-1])


def test_the_networks_of_ap_have_the_layers_that_are_counted() -> None:
    x, y, x_test, _ = images()
    assert len(x) == 1347 > BATCH and len(x_test) == 450 and int(y.max()) == 9
    for make in NETWORKS.values():
        network, neurons = make()
        modules = dict(network.named_modules())
        assert all(name in modules and layer in modules for name, layer in neurons.items())
        assert network(x[:2]).shape == (2, 10)


def test_gains_are_paired_by_seed() -> None:
    """Both forms swing by seed; the difference does not, and only a paired interval sees that."""
    outcome = Outcome()
    swing = np.array([0.2, 0.5, 0.9])[:, None, None] * np.ones((3, 21, 3))
    plain, with_ap = swing.copy(), swing.copy()
    with_ap[:, -1, 0] += 0.01
    ap._report(outcome, "MLP", "magnitude", plain, with_ap, judged=True)
    held = {claim.name: claim for claim in outcome.claims}
    assert held["MLP, magnitude: accuracy that AP gains at 1 %, lower limit"].value == pytest.approx(0.01)
    assert not held["MLP, magnitude: AP's change of the dynamic rate at 1 %, upper limit"].value > 1e-12


def test_methods_are_passes_and_the_baselines_are_not_ours() -> None:
    for name, spec in proact.METHODS.items():
        assert (len(parse_passes(spec)) == 1) == (name != "unprotected")
    assert set(proact.BASELINES) == proact.METHODS.keys() - {proact.OURS, proact.EXTENSION}


def test_without_the_data_it_says_so_and_claims_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EFFC_DATA", str(tmp_path))
    outcome = proact.measure(Options(threads=1))
    assert [(row["model"], "EFFC_DATA" in row["skipped"]) for row in outcome.rows] == [("ResNet-20", True), ("ResNet-8", True)]
    assert outcome.claims == []


def test_the_readme_shows_both() -> None:
    assert {"proact", "ap"} <= results_page.BENCHMARKS.keys()
