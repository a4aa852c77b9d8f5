"""`effc faultsim --accelerator` on the bundled digits network: reports that name multipliers, gates, and clear refusals."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tests.cli.conftest import CALIBRATION, DIGITS, TEST, Effc

COMMON = ("--no-check-import", "--eval", TEST, "--images", "32")
ARRAY = ("--accelerator", "systolic-32x32", "--data", CALIBRATION)


def test_a_campaign_of_stuck_multipliers(effc: Effc, tmp_path: Path) -> None:
    config = tmp_path / "campaign.toml"
    config.write_text('accelerator = "systolic-32x32"\neffect = "stuck-at-1"\nbits = "16-31"\nfaults = 30\n')
    out = tmp_path / "out"
    bounds = ("--require", "critical <= 0.01", "--require", "masked >= 0")
    result = effc("faultsim", DIGITS, *COMMON, "--config", config, "--data", CALIBRATION, *bounds, "-o", out)
    assert result.exit_code == 1, result.output  # high bits of a sum are fatal
    rows = list(csv.DictReader((out / "faults.csv").open()))
    assert len(rows) == 30
    assert {row["Layer"] for row in rows} == {"array.pe-sum"}  # products have 16 bits
    assert all(0 <= int(part) < 32 for row in rows for part in row["TensorIndex"].strip("()").split(","))
    report = json.loads((out / "report.json").read_bytes())
    assert report["campaign"]["model"]["accelerator"]["dataflow"] == "weight-stationary"
    assert report["campaign"]["spec"]["where"] == ["pe"]
    text = (out / "summary.md").read_text()
    assert "32 rows of 32 multipliers" in text
    assert "nan →" not in text  # a register has no value of its own to show
    assert "nan →" not in (out / "report.html").read_text().lower()


def test_a_description_of_ones_own(effc: Effc, tmp_path: Path) -> None:
    text = 'name = "mine"\nrows = 5\ncolumns = 3\ndataflow = "output-stationary"\nclock-hz = 1e9\n'
    text += "[sram]\nactivations = 64\nweights = 64\noutputs = 64\n[dram]\nbytes-per-second = 1e9\n"
    text += "[energy]\nmac = 1\nsram-read = 1\nsram-write = 1\ndram = 1\n"
    (tmp_path / "mine.toml").write_text(text)
    (tmp_path / "campaign.toml").write_text('accelerator = "mine.toml"\nwhere = "pe-product"\neffect = "stuck-at-0"\nexhaustive = true\n')
    result = effc(
        *("faultsim", DIGITS, *COMMON[:3], "--images", "2", "--config", tmp_path / "campaign.toml", "--data", CALIBRATION),
        *("-o", tmp_path / "out", "--json"),
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["population"] == 5 * 3 * 16


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--accelerator", "systolic-32x31", "--data", CALIBRATION), "did you mean systolic-32x32"),
        (("--accelerator", "systolic-32x32"), "give --data"),
        (("--data", CALIBRATION), "give --accelerator"),
        (
            (*ARRAY, "--where", "pe"),
            "a faulty multiplier stays faulty; effect stuck-at-0 or stuck-at-1; a single upset is one of where = accumulator or sram",
        ),
        ((*ARRAY, "--where", "weight", "--effect", "stuck-at-1"), "is nowhere in an array"),
        ((*ARRAY, "--effect", "stuck-at-1", "--rate", "1e-6"), "an array has single faults"),
        (("--where", "pe-sum"), "give an accelerator"),
    ],
)
def test_refusals_are_usage_errors(effc: Effc, tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    result = effc("faultsim", DIGITS, *COMMON, *arguments, "-o", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert says in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()


def test_an_accelerator_alone_is_a_campaign_of_single_upsets(effc: Effc, tmp_path: Path) -> None:
    result = effc("faultsim", DIGITS, *COMMON[:3], "--images", "2", *ARRAY, "--faults", "5", "-o", tmp_path)
    assert result.exit_code == 0, result.output
    spec = json.loads((tmp_path / "report.json").read_bytes())["campaign"]["spec"]
    assert (spec["where"], spec["effect"]) == (["accumulator"], "flip")
