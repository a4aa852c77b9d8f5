"""`effc targets measure` and what a compile makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from effc.lowering import measuring
from effc.runtime import load
from effc.targets.rates import Level, Rates
from tests.cli.conftest import CALIBRATION, DIGITS


def test_measured_rates_are_kept_and_written_into_artifacts(
    effc: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()
    first = effc("compile", DIGITS, "-o", tmp_path / "standard", "--json")
    assert first.exit_code == 0
    assert not (tmp_path / "standard" / "rates.json").exists()
    free = Level(1e-3, 1e6, 0.0)
    monkeypatch.setattr(measuring, "measure", lambda target, threads, advance: Rates(free, free, 0.0, threads))
    said = effc("targets", "measure", "--json")
    assert said.exit_code == 0
    assert json.loads(said.stdout)["rates"]["memory"]["skipping"] == 1e6
    assert Path(json.loads(said.stdout)["file"]).is_relative_to(tmp_path / "cache")
    assert "skipping" in effc("targets", "measure").stdout
    made = effc("compile", DIGITS, "--passes", "profile", "--data", CALIBRATION, "-o", tmp_path / "measured")
    assert made.exit_code == 0
    families = [step["family"] for step in load(tmp_path / "measured").manifest.data["plan"]["steps"]]
    assert families[-1] == "skipping"  # the head behind the last ReLU, under rates that make zeros free
    again = effc(
        "compile",
        DIGITS,
        "--passes",
        "profile",
        "--data",
        CALIBRATION,
        "-o",
        tmp_path / "again",
        "--rates",
        tmp_path / "measured" / "rates.json",
    )
    assert again.exit_code == 0
    assert (tmp_path / "again" / "manifest.json").read_bytes() == (tmp_path / "measured" / "manifest.json").read_bytes()


def test_targets_are_still_listed(effc: Callable[..., Result]) -> None:
    row = next(line for line in effc("targets").stdout.splitlines() if "cortex-m0 " in line)
    assert row.count(" - ") == 3 and "KiB" not in row, "no vectors and no caches"
    listed = effc("targets", "--json")
    assert {"cpu", "x86-64-v3"} <= {target["name"] for target in json.loads(listed.stdout)["targets"]}
