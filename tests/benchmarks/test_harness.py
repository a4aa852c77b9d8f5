"""The harness: claims, the JSON form, tables, where the data are, the README writer, and the statistics of a comparison."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import documents, harness, onnx_nodes, results_page
from benchmarks.harness import Claim, Options, Outcome
from effc.errors import DataError, InternalError
from effc.runtime.bench import Contender, compare_engines, contender_arguments

INPUTS = [{"name": "x", "shape": [1, 3], "dtype": "float32"}]


@pytest.mark.parametrize(
    ("value", "sense", "holds"),
    [
        (1e-4, "at most", True),
        (1.1e-4, "at most", False),
        (1e-4, "at least", True),
        (0.9e-4, "at least", False),
        (math.nan, "at most", False),
        (math.nan, "at least", False),
        (math.inf, "at most", False),
    ],
)
def test_claims(value: float, sense: str, holds: bool) -> None:
    assert Claim("c", value, 1e-4, sense).holds is holds  # type: ignore[arg-type]


def benchmark(options: Options) -> Outcome:
    outcome = Outcome([{"model": "a", "median us": 1234.5}], [Claim("error", 2.0 if options.quick else math.nan, 1.0, "at most")])
    outcome.skip("b", "$EFFC_DATA/b is missing")
    return outcome


def test_json_form_and_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert harness.main(benchmark, ["--json", "--quick", "--threads", "1"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert list(result) == ["machine", "rows", "claims"]
    assert result["rows"] == [{"model": "a", "median us": 1234.5}, {"model": "b", "skipped": "$EFFC_DATA/b is missing"}]
    assert result["claims"] == [{"name": "error", "value": 2.0, "bar": 1.0, "sense": "at most", "holds": False}]
    assert result["machine"]["threads"] == 1
    assert result["machine"]["quick"] is True
    assert {"processor", "processors", "memory", "load", "versions"} <= result["machine"].keys()


def test_a_number_that_is_none_is_null(capsys: pytest.CaptureFixture[str]) -> None:
    harness.main(benchmark, ["--json"])
    assert json.loads(capsys.readouterr().out)["claims"][0]["value"] is None


def test_what_json_has_no_number_for_is_null_in_rows() -> None:
    rows = Outcome([{"error": math.inf, "n": 3, "share": math.nan, "time": 0.5}]).as_json({})["rows"]
    assert rows == [{"error": None, "n": 3, "share": None, "time": 0.5}]


def test_an_error_of_effc_keeps_its_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    def fails(options: Options) -> Outcome:
        raise DataError("no such thing")

    assert harness.main(fails, ["--json"]) == DataError("").exit_code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "no such thing" in captured.err


def test_tables() -> None:
    rows = [{"model": "a|b", "error": 2.5e-7, "n": 1017}, {"model": "c", "time": 12345.6, "same": True}]
    assert harness.markdown(rows).splitlines() == [
        "| model | error | n | time | same |",
        "| --- | --- | --- | --- | --- |",
        "| a\\|b | 2.5e-07 | 1,017 |  |  |",
        "| c |  |  | 12,346 | yes |",
    ]
    assert harness.markdown([]) == ""


def test_the_data_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EFFC_DATA", str(tmp_path))
    assert harness.data_file("x.npz") is None
    (tmp_path / "x.npz").touch()
    assert harness.data_file("x.npz") == tmp_path / "x.npz"
    monkeypatch.delenv("EFFC_DATA")
    assert harness.data_folder().parts[-2:] == ("shared", "data")


GPU = "one-row-times-a-large-matrix-on-a-gpu-zeros-skipped"


def result(*claims: Claim) -> dict[str, object]:
    outcome = Outcome([{"model": "a", "error": 0.5, "settings": {"long": 1}}, {"model": "b", "skipped": "why"}], list(claims))
    facts = {"processor": "P", "processors": 2, "threads": 1, "system": "S", "python": "3", "versions": {"effc": "0.1"}}
    return outcome.as_json(facts)


def test_a_section_tells_what_was_missed_and_skipped() -> None:
    text = results_page.section("Title", result(Claim("first", 0.5, 1.0, "at most"), Claim("second", 0.5, 0.1, "at most")))
    assert text.startswith("Title\n\n| model | error |")
    assert "| b | why |" in text
    assert "1 of 2 claims hold." in text
    assert "Missed: second: 0.5, needed at most 0.1." in text
    assert "long" not in text


def test_the_column_that_compares_is_defined_above_its_table() -> None:
    outcome = Outcome([{"engine": "other", "times effc": 0.5, "interval": "0.4 to 0.6"}])
    machine = {"processor": "P", "processors": 2, "threads": 1, "system": "S", "python": "3", "versions": {}}
    assert f"\n\n{harness.TIMES_EFFC}\n\n| engine |" in results_page.section("Title", outcome.as_json(machine))
    assert harness.TIMES_EFFC in (harness.REPOSITORY / "docs" / "results.md").read_text()


def test_the_readme_has_what_matters_most_and_every_miss() -> None:
    claims = [
        Claim("resnet50: relative error", 2e-6, 1e-4, "at most"),
        Claim("other", 1.0, 2.0, "at most"),
        Claim("bad", 3.0, 2.0, "at most"),
    ]
    lines = results_page.short({"accuracy": result(*claims)}).splitlines()
    assert lines[2:] == [
        "| [accuracy](docs/results.md#nearness-to-the-source-model): 2 of 3 | resnet50: relative error | 2e-06 | at most 0.0001 |",
        "|  | bad | 3 | **missed**: at most 2 |",
    ]
    with pytest.raises(ValueError, match="'resnet50: relative error'"):
        results_page.short({"accuracy": result(claims[1])})


def test_some_benchmarks_change_only_their_own_rows_and_sections() -> None:
    good, bad = Claim("resnet50: relative error", 2e-6, 1e-4, "at most"), Claim("ONNX node tests wrong, program", 3.0, 0.0, "at most")
    nodes = [Claim("ONNX node tests passed, program", 0.9, 0.7, "at least"), bad]
    old = {"accuracy": result(good), "onnx_nodes": result(*nodes)}
    table, page = results_page.short(old), results_page.full(old)
    new = {"onnx_nodes": result(nodes[0], replace(bad, value=0.0))}
    assert results_page.with_short(f"\n{table}\n", new) == results_page.short(old | new)
    assert results_page.with_sections(f"\n{page}\n", new) == results_page.full(old | new)
    assert results_page.with_short(table, {}) == table
    added = {"latency": result(*(Claim(name, 2.0, 1.0, "at least") for name in results_page.BENCHMARKS["latency"].claims))}
    assert results_page.with_sections(page, added) == results_page.full(added | old)  # in its place, which is the first


def test_what_could_not_run_is_unproven() -> None:
    row = results_page.short({"gpu_skip_gemv": result()}).splitlines()[2]
    assert row == f"| [gpu_skip_gemv](docs/results.md#{GPU}): 0 of 0 | why | **unproven** |  |"


def test_links_of_the_readme_reach_their_sections() -> None:
    readme, page = ((harness.REPOSITORY / name).read_text() for name in ("README.md", "docs/results.md"))
    for name, shown in results_page.BENCHMARKS.items():
        assert f"[{name}](docs/results.md#" in readme and f"\n## {shown.title}\n" in page


def test_a_document_changes_between_its_marks_only() -> None:
    begin, end = "<!-- results:begin -->", "<!-- results:end -->"
    document = f"before\n{begin}\nold\n{end}\nafter\n"
    once = documents.replaced(document, "results", results_page.full({"accuracy": result()}))
    assert once.startswith(f"before\n{begin}\n## Nearness to the source model\n\n`python -m benchmarks.accuracy`\n\n|")
    assert once.endswith(f"effc 0.1.\n{end}\nafter\n")
    assert documents.replaced(once, "results", "old") == document
    for broken in ("", document * 2, f"{end}{begin}"):
        with pytest.raises(ValueError, match="needs"):
            documents.replaced(broken, "results", "x")


def test_node_tests_are_counted() -> None:
    verdicts = {
        "program": {"test_a": ("pass", ""), "test_b": ("refused", "why"), "test_a_expanded": ("wrong", "how"), "test_c": ("pass", "")},
        "tvm": {"test_a": ("pass", "")},
    }
    outcome = onnx_nodes.summarise(verdicts, shares=True)
    first = {"engine": "program", "kind": "core", "cases": 3, "passed": 2, "refused": 1, "wrong": 0, "share": 2 / 3}
    assert outcome.rows[0] == first
    assert outcome.rows[-1]["engine"] == "refuse all"
    assert [(claim.value, claim.holds) for claim in outcome.claims] == [(2 / 3, False), (1, False), (1.0, True), (0, True)]


def worker(tmp_path: Path, name: str, body: str) -> Contender:
    script = tmp_path / f"{name}.py"
    script.write_text(
        "import sys, time\nfrom effc.runtime.bench_worker import Engine, arguments, serve\n"
        f"options = arguments('x', 'model').parse_args()\n{body}\nsys.exit(serve(options, start))\n"
    )
    return Contender(name, (sys.executable, str(script), "-", *contender_arguments(INPUTS, threads=1)))


def test_a_comparison_finds_the_ratio(tmp_path: Path) -> None:
    sleep = "def start():\n    return Engine('e', {'seen': 1}, lambda inputs: time.sleep(%s))"
    fast, slow = worker(tmp_path, "fast", sleep % 0.002), worker(tmp_path, "slow", sleep % 0.02)
    comparison = compare_engines([fast, slow], blocks=4, block_seconds=0.02, warm_up_seconds=0.05)
    (ratio,) = comparison.ratios
    assert 3 < ratio.value < 12
    assert ratio.low <= ratio.value <= ratio.high
    first = comparison.timings[0]
    assert 2e6 <= first.percentile5 <= first.median <= first.percentile95
    assert first.settings["seen"] == 1
    assert first.settings["threads"] == 1


def test_an_engine_may_bring_its_own_clock(tmp_path: Path) -> None:
    own = worker(tmp_path, "own", "def start():\n    return Engine('e', {}, lambda inputs: 1_000_000, own_clock=True)")
    comparison = compare_engines([own], blocks=2, block_seconds=0.005, warm_up_seconds=0.005)
    (blocks,) = comparison.durations
    assert len(blocks) == 2
    assert {duration for block in blocks for duration in block} == {1_000_000}  # how many calls fill a block is the machine's affair


def test_every_call_gets_fresh_inputs(tmp_path: Path) -> None:
    body = (
        "seen = set()\n"
        "def run(inputs):\n    key = inputs['x'].tobytes()\n    assert key not in seen\n    seen.add(key)\n"
        "def start():\n    return Engine('e', {}, run)"
    )
    assert compare_engines([worker(tmp_path, "fresh", body)], blocks=2, block_seconds=0.01, warm_up_seconds=0.01).timings[0].calls >= 6


def test_engines_that_fail_say_why(tmp_path: Path) -> None:
    refuses = "from effc.errors import DataError\ndef start():\n    raise DataError('no model')"
    with pytest.raises(DataError, match="refuses: no model"):
        compare_engines([worker(tmp_path, "refuses", refuses)])
    dies = "def start():\n    raise RuntimeError('bang')"
    with pytest.raises(InternalError, match=r"(?s)ended with code 1.*bang"):
        compare_engines([worker(tmp_path, "dies", dies)])


def test_more_threads_than_processors_are_refused() -> None:
    with pytest.raises(DataError, match="processors"):
        contender_arguments(INPUTS, threads=10_000)


def test_samples_are_taken_in_turn() -> None:
    from effc.runtime.bench_worker import Feed

    feed = Feed([{"name": "x", "shape": (2, 1), "dtype": "float32"}], 0, {"x": np.arange(5.0)[:, None]})
    assert [feed()["x"].ravel().tolist() for _ in range(3)] == [[2, 3], [4, 0], [1, 2]]
