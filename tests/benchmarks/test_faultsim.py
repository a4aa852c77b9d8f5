"""The benchmarks of fault simulation: their arithmetic, and what they say where the data are missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import faultsim, results_page
from benchmarks.harness import Options


def test_a_ratio_is_of_sums_and_its_interval_resamples_faults() -> None:
    plain, other = np.array([4.0, 4.0, 4.0, 4.0]), np.array([1.0, 1.0, 1.0, 5.0])
    ratio, low, high = faultsim._ratio(plain, other)
    assert ratio == 2.0  # not the mean of the quotients, 3.2
    assert 0.8 <= low < 2.0 < high <= 4.0
    assert faultsim._ratio(plain, other) == (ratio, low, high)


def test_without_the_data_it_says_so_and_claims_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EFFC_DATA", str(tmp_path))
    outcome = faultsim.measure(Options(quick=True))
    assert [(row["model"], "EFFC_DATA" in row["skipped"]) for row in outcome.rows] == [("ResNet-20", True)]
    assert outcome.claims == []


def test_the_readme_shows_both() -> None:
    assert {"faultsim", "resilience"} <= results_page.BENCHMARKS.keys()
