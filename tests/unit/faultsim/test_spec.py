"""What can be chosen for a campaign, and what is said about choices that do not hold together."""

from __future__ import annotations

from pathlib import Path

import pytest

from effc.errors import ConfigError
from effc.faultsim.spec import CampaignSpec, load_spec, parse_bits, spec_of


def test_options_that_do_not_go_together() -> None:
    for values, words in (
        ({"rates": [1e-6], "faults": 5}, "rates and faults"),
        ({"exhaustive": True, "faults_csv": "a.csv"}, "exhaustive and faults-csv"),
        ({"precision": 0.1, "faults": 5}, "faults and precision"),
        ({"exhaustive": True, "stratify": ["bit"]}, "stratify"),
        ({"duration": "transient", "images_per_fault": 4}, "one inference"),
        ({"effect": "random", "bits": "30"}, "all bits"),
        ({"faults_csv": "a.csv", "bits": "30"}, "bits cannot be chosen"),
        ({"rates": [1e-6, 1e-6]}, "twice"),
        ({"rates": [1.0]}, "rates"),
        ({"rates": [-0.1]}, "rates"),
        ({"bits": "31-23"}, "bits"),
        ({"seeds": 3}, "seeds"),
    ):
        with pytest.raises(ConfigError, match=words):
            spec_of(values)
    with pytest.raises(ConfigError) as refused:
        spec_of({"draws": 0, "jobs": "many", "level": 1.5})
    assert {problem.where for problem in refused.value.problems} == {"draws", "jobs", "level"}


def test_a_spec_is_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "campaign.toml").write_text('eval = "test.npz"\nrates = 1e-6\nimages-per-fault = 4\nrequire = ["accuracy@1e-6 >= 0.8"]\n')
    spec = spec_of(load_spec(tmp_path / "campaign.toml"))
    assert spec == CampaignSpec(eval=tmp_path / "test.npz", rates=(1e-6,), images_per_fault=4, require=("accuracy@1e-6 >= 0.8",))
    assert spec_of(spec.identity()).identity() == spec.identity()
    (tmp_path / "campaign.toml").write_text("eval = ")
    with pytest.raises(ConfigError, match="not TOML"):
        load_spec(tmp_path / "campaign.toml")


def test_bits() -> None:
    assert parse_bits("") is None
    assert parse_bits("30") == (30,)
    assert parse_bits("31, 0-2,1") == (0, 1, 2, 31)
    for wrong in ("30-", "-3", "7-5", "64", "a", "1,,2", "1_0", "\u0663"):
        with pytest.raises(ConfigError, match="not understood"):
            parse_bits(wrong)
