"""Budgets: what they say, what the interval decides, and what is refused before a campaign runs."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from effc.errors import ConfigError, GateFailed, InconclusiveError
from effc.faultsim.gates import METRICS, Requirement, check_requirements, judge, parse_requirements, raise_for
from effc.faultsim.statistics.estimate import Estimate
from effc.faultsim.summary import Summary
from tests.unit.faultsim.summaries import single_faults, sweep


def estimated(low: float, high: float) -> Summary:
    """A campaign that says this interval of SDC-1."""
    base = single_faults()
    return replace(base, overall={"sdc1": Estimate((low + high) / 2, low, high, 0.95, 100, "made up")})


class TestParse:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("accuracy@1e-6 >= 0.85", Requirement("accuracy", 1e-6, ">=", 0.85)),
            ("  sdc1<=.02 ", Requirement("sdc1", None, "<=", 0.02)),
            ("SDC20 @ 0.000003<=2e-2", Requirement("sdc20", 3e-6, "<=", 0.02)),
            ("masked >= 0", Requirement("masked", None, ">=", 0.0)),
        ],
    )
    def test_forms(self, text: str, expected: Requirement) -> None:
        assert Requirement.parse(text) == expected
        assert Requirement.parse(str(expected)) == expected

    def test_its_line_is_short_and_exact(self) -> None:
        assert str(Requirement("accuracy", 1e-6, ">=", 0.85)) == "accuracy@1e-6 >= 0.85"
        assert str(Requirement("due", None, "<=", 0.123456789)) == "due <= 0.123456789"

    def test_all_that_is_wrong_is_said_at_once(self) -> None:
        wrong = ["sdc2 <= 0.1", "sdc1 < 0.1", "sdc1 <= 2", "accuracy@2 >= 0.5", "sdc1 <= nan", "", "x" * 1000, "sdc1 <= 0.1; sdc5 <= 0.1"]
        with pytest.raises(ConfigError) as caught:
            parse_requirements(["due <= 0.1", *wrong])
        assert len(caught.value.problems) == len(wrong)
        assert all(metric in str(caught.value.problems[0]) for metric in METRICS)
        assert "0.02 or 2 %" in str(caught.value.problems[2])
        assert len(str(caught.value)) < 3000

    def test_twice_is_once(self) -> None:
        assert len(parse_requirements(["sdc1 <= 0.02", "sdc1<=0.020", "sdc1 <= 2%"])) == 1


class TestCheck:
    def test_what_the_campaign_does_not_measure(self) -> None:
        asked = parse_requirements(["accuracy@2e-6 >= 0.8", "accuracy >= 0.8", "sdc5@1e-6 <= 0.1", "due@1e-6 <= 0.1"])
        check_requirements(asked[2:], [1e-6], has_labels=False, has_classes=True)
        with pytest.raises(ConfigError) as caught:
            check_requirements(asked, [1e-7, 1e-6], has_labels=False, has_classes=False)
        said = [str(problem) for problem in caught.value.problems]
        assert len(said) == 5  # the first has no such rate and no accuracy, the second says no rate and has no accuracy
        assert "1e-7, 1e-6" in said[0]

    def test_single_faults_have_no_rate(self) -> None:
        with pytest.raises(ConfigError, match="draws single faults"):
            check_requirements([Requirement.parse("sdc1@1e-6 <= 0.1")], [], has_labels=True, has_classes=True)
        check_requirements(parse_requirements(["sdc1 <= 0.1", "accuracy >= 0.8"]), [], has_labels=True, has_classes=True)

    def test_labels_are_needed_for_accuracy(self) -> None:
        with pytest.raises(ConfigError, match="no labels"):
            check_requirements([Requirement.parse("accuracy@1e-6 >= 0.1")], [1e-6], has_labels=False, has_classes=True)


class TestJudge:
    @pytest.mark.parametrize(
        ("low", "high", "at_most", "at_least"),
        [
            (0.01, 0.02, "PASS", "INCONCLUSIVE"),  # the bound is the interval's end: kept by <=, not excluded by >=
            (0.01, 0.019, "PASS", "FAIL"),
            (0.02, 0.03, "INCONCLUSIVE", "PASS"),
            (0.021, 0.03, "FAIL", "PASS"),
            (0.01, 0.03, "INCONCLUSIVE", "INCONCLUSIVE"),
            (math.nan, math.nan, "INCONCLUSIVE", "INCONCLUSIVE"),
            (-math.inf, math.inf, "INCONCLUSIVE", "INCONCLUSIVE"),
        ],
    )
    def test_the_interval_decides(self, low: float, high: float, at_most: str, at_least: str) -> None:
        summary = estimated(low, high)
        assert judge(Requirement("sdc1", None, "<=", 0.02), summary).outcome == at_most
        assert judge(Requirement("sdc1", None, ">=", 0.02), summary).outcome == at_least

    def test_an_incomplete_campaign_decides_nothing(self) -> None:
        cut = replace(estimated(0.001, 0.002), complete=False, done=7, planned=90)
        verdict = judge(Requirement("sdc1", None, "<=", 0.02), cut)
        assert verdict.outcome == "INCONCLUSIVE"
        assert "7 of 90 injections" in verdict.why

    def test_a_rate_means_its_group(self) -> None:
        verdicts = [judge(Requirement.parse(f"accuracy@{rate} >= 0.85"), sweep()) for rate in ("1e-7", "3e-6", "0.00001", "5e-6")]
        assert [verdict.outcome for verdict in verdicts] == ["PASS", "PASS", "FAIL", "INCONCLUSIVE"]
        assert verdicts[0].estimate is not None
        assert verdicts[0].estimate.low == 0.9149
        assert verdicts[3].estimate is None

    def test_no_injection_no_verdict(self) -> None:
        summary = replace(single_faults(), overall={"due": Estimate(0.0, 0.0, 1.0, 0.95, 0, "no injections")})
        assert judge(Requirement("due", None, "<=", 1.0), summary).outcome == "INCONCLUSIVE"

    def test_accuracy_of_a_campaign_with_one_group(self) -> None:
        assert judge(Requirement.parse("accuracy >= 0.9"), single_faults()).outcome == "PASS"


class TestRaise:
    def test_failed_beats_undecided_and_lists_both(self) -> None:
        summary = single_faults()
        passed, undecided, failed = (
            judge(one, summary) for one in parse_requirements(["critical <= 0.02", "due <= 0.0015", "sdc1 <= 0.01"])
        )
        raise_for([passed])
        raise_for([])
        with pytest.raises(InconclusiveError, match="1 of 2 requirements could not be decided") as caught:
            raise_for([passed, undecided])
        assert caught.value.exit_code == 7
        with pytest.raises(GateFailed, match="1 of 3 requirements failed") as missed:
            raise_for([passed, undecided, failed])
        assert missed.value.exit_code == 1
        assert [problem.what for problem in missed.value.problems] == ["INCONCLUSIVE", "FAIL"]
