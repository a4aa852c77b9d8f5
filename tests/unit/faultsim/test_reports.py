"""Reports of campaigns: valid by their formats' own schemas, the same bytes each time, and nothing from a model gets out of its text.

The schemas: `junit.xsd` is Jenkins' junit-10.xsd as pytest's source distribution has it (MIT), `sarif-2.1.0-rtm.5.json` the OASIS schema as
the npm package @microsoft/jest-sarif has it (MIT).
"""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from lxml import etree

from effc.errors import OutputError
from effc.faultsim.gates import Verdict, judge, parse_requirements
from effc.faultsim.reports import html_report, json_report, json_schema, junit_report, markdown_report, sarif_report, write_reports
from effc.faultsim.reports.accuracy_svg import draw_accuracy
from effc.faultsim.reports.heat_svg import draw_heat, step_of
from effc.faultsim.reports.interval_svg import Bar, draw_intervals
from effc.faultsim.reports.scales import decades, linear, logarithmic, nice_ticks
from effc.faultsim.statistics.estimate import Estimate
from effc.faultsim.summary import Cell, Summary
from tests.unit.faultsim.summaries import HOSTILE, LAYERS, single_faults, sweep

HERE = Path(__file__).parent
SARIF = json.loads((HERE / "sarif-2.1.0-rtm.5.json").read_text())
JUNIT = etree.XMLSchema(etree.parse(HERE / "junit.xsd"))
THREE = ("critical <= 0.02", "sdc1 <= 0.01", "due <= 0.0015")  # of single_faults: PASS, FAIL, INCONCLUSIVE
ALL = (json_report, html_report, markdown_report, junit_report, sarif_report)


def verdicts(summary: Summary, *texts: str) -> list[Verdict]:
    return [judge(one, summary) for one in parse_requirements(texts)]


def hostile() -> Summary:
    """Every text that comes from a user or a model is an attack."""
    base = single_faults(HOSTILE, {"conv1": HOSTILE})
    groups = tuple(replace(group, name=HOSTILE) for group in base.groups)
    return replace(base, view=HOSTILE, groups=groups, notes=(HOSTILE,), campaign={HOSTILE: {HOSTILE: [HOSTILE]}}, worst=base.worst[:3])


def empty() -> Summary:
    """A campaign that was stopped before its first injection, on outputs that are no classes."""
    base = sweep()
    unknown = Estimate(0.0, 0.0, 1.0, 0.95, 0, "no injections")
    none = [
        replace(
            group, injections=0, empty=0, flips=0, inferences=0, shares={"due": unknown}, accuracy=None, accuracy_min=None, accuracy_p5=None
        )
        for group in base.groups
    ]
    bare = [replace(group, sdc1_of_correct=None) for group in none]
    return replace(base, classes=False, golden_accuracy=None, groups=tuple(bare), complete=False, done=0, campaign={})


EVERY = [single_faults, sweep, hostile, empty]


@pytest.mark.parametrize("make", EVERY)
@pytest.mark.parametrize("report", ALL)
def test_the_same_bytes_each_time_and_valid_text(
    report: Callable[[Summary, Sequence[Verdict]], bytes], make: Callable[[], Summary]
) -> None:
    first = report(make(), verdicts(make(), *THREE))
    assert first == report(make(), verdicts(make(), *THREE))
    assert first.decode().endswith("\n") or report is html_report


class TestJson:
    @pytest.mark.parametrize("make", EVERY)
    def test_valid_by_the_published_schema(self, make: Callable[[], Summary]) -> None:
        schema = json_schema()
        jsonschema.Draft202012Validator.check_schema(schema)
        summary = make()
        document = json.loads(json_report(summary, verdicts(summary, *THREE, "accuracy@1e-6 >= 0.85")))
        jsonschema.Draft202012Validator(schema).validate(document)

    def test_the_schema_is_closed(self) -> None:
        validator = jsonschema.Draft202012Validator(json_schema())
        document = json.loads(json_report(single_faults(), []))
        for place in (document, document["groups"][0], document["cells"][0], document["worst"][0], document["overall"]["sdc1"]):
            place["surprise"] = 1
            assert not validator.is_valid(document)
            del place["surprise"]
            name, value = next(iter(place.items()))
            del place[name]
            assert not validator.is_valid(document)
            place[name] = value
        assert validator.is_valid(document)

    def test_what_json_cannot_say_is_a_word(self) -> None:
        summary = single_faults()
        values = [row["after"] for row in json.loads(json_report(summary, []))["worst"]]
        assert {"NaN", "Infinity", 1.7014118346046923e38} == set(values)

    def test_outcomes(self) -> None:
        summary = single_faults()
        document = json.loads(json_report(summary, verdicts(summary, *THREE)))
        assert document["outcome"] == "FAIL"
        assert [one["outcome"] for one in document["verdicts"]] == ["PASS", "FAIL", "INCONCLUSIVE"]
        assert json.loads(json_report(summary, verdicts(summary, THREE[0], THREE[2])))["outcome"] == "INCONCLUSIVE"
        assert json.loads(json_report(summary, []))["outcome"] is None


class TestJUnit:
    @pytest.mark.parametrize("make", EVERY)
    def test_valid_by_the_schema(self, make: Callable[[], Summary]) -> None:
        JUNIT.assertValid(etree.fromstring(junit_report(make(), verdicts(make(), *THREE))))

    def test_a_missed_budget_fails_and_an_undecided_one_is_an_error(self) -> None:
        root = etree.fromstring(junit_report(single_faults(), verdicts(single_faults(), *THREE)))
        cases = {case.get("name"): [child.tag for child in case if child.tag != "system-out"] for case in root.iter("testcase")}
        assert cases == {"the campaign is complete": [], THREE[0]: [], THREE[1]: ["failure"], THREE[2]: ["error"], "all": []}
        assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("5", "1", "1")

    def test_nothing_is_green_where_nothing_was_done(self) -> None:
        root = etree.fromstring(junit_report(empty(), []))
        complete, *groups = root.iter("testcase")
        assert complete.find("error") is not None
        assert len(groups) == 5
        assert all(group.find("skipped") is not None for group in groups)


class TestSarif:
    @pytest.mark.parametrize("make", EVERY)
    def test_valid_by_the_schema(self, make: Callable[[], Summary]) -> None:
        document = json.loads(sarif_report(make(), verdicts(make(), *THREE)))
        jsonschema.Draft4Validator(SARIF, format_checker=jsonschema.FormatChecker()).validate(document)
        for result in document["runs"][0]["results"]:
            assert document["runs"][0]["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]

    def test_results(self) -> None:
        summary = replace(single_faults(), model="models/res net20.onnx")
        found = results(summary, *THREE)
        assert [(one["ruleId"], one["level"]) for one in found] == [
            ("EFFC-SDC-BUDGET", "error"),
            ("EFFC-DUE-BUDGET", "warning"),
            *[("EFFC-CRITICAL-LAYER", "note")] * 4,
        ]
        assert [one["locations"][0].get("logicalLocations", [{}])[0].get("fullyQualifiedName") for one in found[2:]] == [
            "linear",
            "layer1.1.conv2",
            "conv1",
            "linear.bias",
        ]
        assert {one["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for one in found} == {"models/res%20net20.onnx"}

    def test_a_fingerprint_is_the_budget_not_the_number(self) -> None:
        summary = single_faults()
        other = replace(summary, overall={**summary.overall, "sdc1": Estimate(0.3, 0.2, 0.4, 0.95, 10, "")}, campaign={})
        prints = [[one["partialFingerprints"] for one in results(one, *THREE)] for one in (summary, other)]
        assert prints[0] == prints[1]
        assert len({one["primaryLocationLineHash"] for one in prints[0]}) == len(prints[0])

    @pytest.mark.parametrize(
        ("model", "uri"),
        [
            ("/home/me/net.onnx", "net.onnx"),
            ("../../net.onnx", "net.onnx"),
            ("./a/../net.onnx", "net.onnx"),
            ("C:net", "C%3Anet"),
            ("", "model"),
        ],
    )
    def test_paths_stay_relative(self, model: str, uri: str) -> None:
        found = results(replace(single_faults(), model=model), *THREE)
        assert found[0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == uri

    def test_a_layer_is_neither_link_nor_placeholder(self) -> None:
        text = "\n".join(one["message"]["text"] for one in results(hostile(), *THREE))
        assert "](" not in text
        assert "{{0}}" in text
        assert "{0}" not in text.replace("{{0}}", "")


def results(summary: Summary, *texts: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(sarif_report(summary, verdicts(summary, *texts)))["runs"][0]["results"]
    return found


class TestMarkdown:
    def test_verdicts_come_first_and_the_worst_of_them_before(self) -> None:
        text = markdown_report(single_faults(), verdicts(single_faults(), *THREE)).decode()
        assert text.index("❌ FAIL") < text.index("`sdc1 <= 0.01`") < text.index("`due <= 0.0015`") < text.index("`critical <= 0.02`")
        assert text.index("`critical <= 0.02`") < text.index("### ")

    def test_a_huge_campaign_stays_small_and_says_what_is_left_out(self) -> None:
        base = single_faults()
        layers = tuple(replace(base.layers[0], layer=f"{index}{HOSTILE}") for index in range(5000))
        one = sweep().groups[0]
        groups = tuple(replace(one, rate=1e-9 * (index + 1)) for index in range(5000))
        summary = replace(base, model=HOSTILE * 100, layers=layers, groups=groups, notes=(HOSTILE * 100,) * 500, worst=base.worst * 100)
        many = verdicts(summary, *(f"sdc1 <= 0.{index:05d}" for index in range(1, 3000)))
        page = markdown_report(summary, many)
        assert len(page) < 60_000
        assert page.decode().count("more rows, in report.json") == 3
        kept = len(re.findall(r"^\| ❌", page.decode(), re.MULTILINE))
        assert f"{2999 - kept:,} more rows" in page.decode()

    def test_hostile_names_are_no_markup(self) -> None:
        text = markdown_report(hostile(), verdicts(hostile(), *THREE)).decode()
        assert "<script" not in text
        assert "](" not in text
        assert not re.search(r"https?:/|@a|\x1b|\u202e|x\.y", text)
        tables = [line for line in text.splitlines() if line.startswith("|")]
        assert {line.count("|") for line in tables} <= {5, 6}  # tables of four and five columns: no name made a cell


class Page(HTMLParser):
    """What a browser would make of a page: its tags, attributes and words."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "line", "rect", "circle", "path", "polygon", "polyline"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        self.words.append(data)


class TestPage:
    @pytest.mark.parametrize("make", EVERY)
    def test_self_contained_and_inert(self, make: Callable[[], Summary]) -> None:
        page = html_report(make(), verdicts(make(), *THREE))
        seen = Page(page)
        assert not {"script", "iframe", "img", "link", "object"} & {tag for tag, _ in seen.tags}
        names = {name for _, attributes in seen.tags for name in attributes}
        assert not [name for name in names if name.startswith("on") or name in ("href", "src")]
        assert "default-src 'none'" in page.decode()
        assert "url(http" not in page.decode()
        assert "\x1b" not in page.decode()
        assert "\u202e" not in page.decode()

    def test_a_hostile_name_is_shown_as_text(self) -> None:
        words = "".join(Page(html_report(hostile(), [])).words)
        assert "<script>alert(1)</script>" in words

    def test_it_says_verdicts_numbers_and_words(self) -> None:
        words = " ".join("".join(Page(html_report(single_faults(), verdicts(single_faults(), *THREE))).words).split())
        for said in (
            "FAIL",
            "critical <= 0.02",
            "1.276 %",
            "8,587,072 bits of 21 tensors",
            "f32",
            "1,017",
            "5f5f5f",
            "Detected, unrecoverable",
        ):
            assert said in words

    def test_very_many_layers_are_said_to_be_left_out(self) -> None:
        base = single_faults()
        layers = tuple(replace(base.layers[0], layer=f"layer{index}") for index in range(300))
        assert "The 180 least critical layers are not drawn" in html_report(replace(base, layers=layers), []).decode()


class TestDrawings:
    def test_heat_has_a_cell_for_each_place_and_hatches_those_without_injections(self) -> None:
        drawing = draw_heat(single_faults().cells, list(LAYERS))
        assert drawing.count("<rect") == 21 * 32
        assert drawing.count('class="unseen"') == 3
        assert "conv1, bit 0: no injection, 432 bits" in drawing
        assert "linear, bit 30: 100 % (91.24 to 100 %) critical, 40 injections" in drawing

    def test_steps_of_heat(self) -> None:
        assert [step_of(share) for share in (0.0, 1e-9, 1e-4, 1.1e-4, 0.01, 0.1, 0.11, 1.0)] == [0, 1, 1, 2, 3, 4, 5, 5]

    def test_the_curve_stands_where_its_numbers_are(self) -> None:
        drawing = draw_accuracy(sweep().groups, sweep().golden_accuracy)
        across = [float(at) for at in re.findall(r'<circle cx="([0-9.]+)"', drawing)]
        assert len(across) == 5
        decade = across[3] - across[1]  # 1e-6 to 1e-5
        assert across[1] - across[0] == pytest.approx(decade, abs=0.2)
        assert across[2] - across[1] == pytest.approx(decade * math.log10(3), abs=0.2)
        down = [float(at) for at in re.findall(r'<circle cx="[0-9.]+" cy="([0-9.]+)"', drawing)]
        assert down == sorted(down)

    def test_odd_numbers_do_not_break_drawings(self) -> None:
        odd = Estimate(math.nan, -math.inf, math.inf, 0.95, 1, "one injection")
        one = replace(sweep().groups[0], accuracy=odd, accuracy_min=math.nan, accuracy_p5=None)
        zero = Estimate(0.0, 0.0, 0.0, 0.95, 5, "")
        drawings = [
            draw_accuracy([one], odd),
            draw_intervals([Bar("a", odd), Bar("b", None), Bar("c", zero)], "x", log=True),
            draw_intervals([Bar("a", odd), Bar("b", None), Bar("c", zero)], "x"),
            draw_heat([Cell("a", 3, 8, 1, odd)], ["a"]),
        ]
        assert all(not re.search(r'="[^"]*(nan|inf)[^"]*"', drawing) for drawing in drawings)

    def test_names_are_escaped(self) -> None:
        assert "<script" not in draw_intervals([Bar(HOSTILE, None), Bar(HOSTILE, Estimate(0.5, 0.4, 0.6, 0.95, 9, ""))], "x")
        assert html.escape("<script>") in draw_heat([Cell(HOSTILE, 3, 8, 0, Estimate(0, 0, 1, 0.95, 0, ""))], [HOSTILE])

    def test_scales(self) -> None:
        assert linear(0, 10, 100, 200)(5) == 150
        assert linear(0, 10, 100, 200)(99) == 200
        assert logarithmic(1e-6, 1e-2, 0, 4)(1e-5) == pytest.approx(1)
        assert logarithmic(1e-6, 1e-2, 0, 4)(0) == 0
        assert decades(9e-8, 3e-5) == pytest.approx([1e-7, 1e-6, 1e-5])
        assert nice_ticks(0, 0.047, 4) == pytest.approx([0, 0.02, 0.04])


class TestWrite:
    def test_all_files_and_nothing_else(self, tmp_path: Path) -> None:
        summary = single_faults()
        names = write_reports(tmp_path / "out", summary, verdicts(summary, *THREE), iter(summary.worst))
        assert names == ["report.json", "report.html", "summary.md", "junit.xml", "report.sarif", "faults.csv"]
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(names)
        assert (tmp_path / "out" / "faults.csv").read_text().count("\n") == 43
        again = write_reports(tmp_path / "out", sweep(), [], ())
        assert "faults.csv" not in again
        assert b"q15.16" in (tmp_path / "out" / "report.html").read_bytes()

    def test_a_failure_leaves_the_old_reports(self, tmp_path: Path) -> None:
        write_reports(tmp_path, sweep(), [], ())
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

        def broken() -> Any:
            yield single_faults().worst[0]
            raise OSError(28, "No space left on device")

        with pytest.raises(OutputError, match="No space left"):
            write_reports(tmp_path, single_faults(), [], broken())
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
