"""Paired comparisons: the same faults in a network and in its protected version, exact differences, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats

from effc.cli.main import cli
from effc.data import Dataset
from effc.errors import ConfigError, DataError
from effc.faultsim import Campaign, compare, paired, read_campaign, run_campaign, spec_of
from effc.faultsim.subject import ProgramSubject
from effc.passes.base import Context
from effc.passes.ranger import Ranger
from tests.unit.faultsim.networks import digits, digits_data

RATES = {"rates": [3e-5, 3e-4], "draws": 12, "seed": 4}


@pytest.fixture(scope="module")
def protected() -> ProgramSubject:
    return ProgramSubject(Ranger()(digits().program, Context(fit=digits_data(64))), digits().name)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, protected: ProgramSubject) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("compare")
    for name, subject in (("plain", digits()), ("protected", protected)):
        run_campaign(subject, digits_data(24), spec_of(RATES), root / name)
    return root / "plain", root / "protected"


def campaign(folder: Path, subject: ProgramSubject, data: Dataset, values: dict[str, Any]) -> Campaign:
    return run_campaign(subject, data, spec_of(values), folder)


def test_both_get_the_same_faults_and_the_bounds_get_theirs_on_top(tmp_path: Path, protected: ProgramSubject) -> None:
    """Activations, too: the bounds are values and tensors of their own, and what was there keeps its faults."""
    values = {**RATES, "rates": [1e-3], "where": ["parameters", "activation"], "images": 4}
    pair = [campaign(tmp_path / name, one, digits_data(4), values) for name, one in (("a", digits()), ("b", protected))]
    sites = [dict(enumerate(one.design.sites)) for one in pair]
    found = compare(pair[0], pair[1])
    assert found.common == len(sites[0])
    assert found.first_only == ()
    assert len(found.second_only) == len(sites[1]) - len(sites[0]) > 3
    known = {site.stream for site in sites[0].values()}
    on_top = 0
    for number in range(12):
        places = []
        for each, one in zip(sites, pair, strict=True):
            drawn = one.design.draw(0, number)
            rows = zip(drawn.sites.tolist(), drawn.elements.tolist(), drawn.bits.tolist(), strict=True)
            places.append({(each[site].stream, element, bit) for site, element, bit in rows})
        assert places[0] <= places[1]
        assert not {stream for stream, *_ in places[1] - places[0]} & known
        on_top += len(places[1] - places[0])
    assert on_top


def test_the_difference_is_the_mean_over_pairs(folders: tuple[Path, Path]) -> None:
    """Against scipy's paired interval, and numbers by hand."""
    first, second = np.array([0.5, 0.25, 0.75, 0.5]), np.array([0.75, 0.25, 0.5, 1.0])
    found = paired(1e-6, first, second, 0.9)
    assert (found.first, found.second, found.difference, found.better, found.worse) == (0.5, 0.625, 0.125, 2, 1)
    test = stats.ttest_rel(second, first)
    assert (found.student.low, found.student.high) == pytest.approx(tuple(test.confidence_interval(0.9)), abs=1e-12)
    one_sided = stats.ttest_rel(second, first, alternative="greater").confidence_interval(0.9).low
    assert found.student.lower_limit == pytest.approx(one_sided, abs=1e-12)
    assert found.gaffke.low < found.gaffke.lower_limit < 0.125 < found.gaffke.upper_limit < found.gaffke.high
    same = paired(1e-6, np.full(300, 0.8), np.full(300, 0.8))
    assert same.student.lower_limit == pytest.approx(0.0, abs=1e-15)
    assert same.gaffke.lower_limit == pytest.approx(-3 / 300, rel=0.02)  # one draw more, of the worst kind
    with pytest.raises(DataError, match="no pairs"):
        paired(1e-6, first, second[:3])
    with pytest.raises(DataError):
        paired(1e-6, first[:1], second[:1])


def test_verdicts() -> None:
    ups, downs = np.full(50, 0.5), np.linspace(0.40, 0.44, 50)
    found = paired(1e-6, ups, downs)
    assert [found.no_worse(margin, "student") for margin in (0.1, 0.08, 0.05)] == ["PASS", "INCONCLUSIVE", "FAIL"]
    assert found.no_worse(0.1) == "INCONCLUSIVE"  # fifty draws do not rule out a rare catastrophe


def test_all_that_differs_is_said_at_once(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    data = digits_data(24)
    shifted = Dataset({"image": data.inputs["image"] + np.float32(0.125)}, data.labels)
    first = campaign(tmp_path / "a", digits(), data, RATES)
    other = campaign(tmp_path / "b", digits(), shifted, {**RATES, "draws": 3, "seed": 5, "view": "f16", "images": 20})
    with pytest.raises(ConfigError, match="cannot be compared") as refused:
        compare(first, other)
    assert {problem.where for problem in refused.value.problems} >= {"data", "samples", "draws", "seed", "view", "stem.weight"}
    single = campaign(tmp_path / "c", digits(), Dataset(data.inputs, None), {"faults": 5})
    older = replace(first, complete=False, identity={**first.identity, "versions": {**first.identity["versions"], "drawing": "1"}})
    with pytest.raises(ConfigError) as refused:
        compare(single, older)
    text = str([(problem.where, problem.what, problem.why) for problem in refused.value.problems])
    assert all(word in text for word in ("single", "not complete", "has none", "version of drawing"))
    compiled = replace(first, identity={**first.identity, "model": {**first.identity["model"], "kind": "artifact"}})
    with pytest.raises(ConfigError, match="executor: program in the first: artifact in the second"):
        compare(first, compiled)
    with pytest.raises(ConfigError, match="level"):
        compare(first, first, 0.4)


def test_the_command(folders: tuple[Path, Path]) -> None:
    plain, better = map(str, folders)
    shown = CliRunner().invoke(cli, ["faultsim", "compare", plain, better])
    assert shown.exit_code == 0, shown.output
    assert "Student" in shown.output
    assert "Gaffke" in shown.output
    report = json.loads(CliRunner().invoke(cli, ["faultsim", "compare", plain, better, "--json"]).stdout)
    expected = compare(read_campaign(folders[0]), read_campaign(folders[1]))
    assert [one["difference"] for one in report["rates"]] == [one.difference for one in expected.rates]
    codes = [
        CliRunner().invoke(cli, ["faultsim", "compare", *pair, "--require-no-worse", points, "--by", by]).exit_code
        for pair, points, by in (
            ((plain, better), "50", "gaffke"),
            ((plain, better), "1", "gaffke"),
            ((better, plain), "1", "student"),
        )
    ]
    assert codes == [0, 7, 1]
