"""`effc model-npu` on the digits network: tables, JSON, the page, artifacts, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from effc.cost.accelerator import shipped
from effc.report.accelerator import amount

ROOT = Path(__file__).resolve().parents[2]
DIGITS, CALIBRATION = ROOT / "examples" / "digits.onnx", ROOT / "examples" / "digits_calibration.npz"


@pytest.fixture(scope="module")
def modelled(effc: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """The JSON document and the page."""
    page = tmp_path_factory.mktemp("npu") / "digits.html"
    options = ("--accelerator", "event-driven", "--data", CALIBRATION, "--samples", 50, "--no-check-import")
    result = effc("model-npu", DIGITS, *options, "--json", "--report", page)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout), page.read_text()


def test_the_document(modelled: tuple[dict[str, Any], str]) -> None:
    document = modelled[0]
    assert document["samples"] == 50 and document["accelerator"]["name"] == "event-driven"
    assert len(document["layers"]) == 4 and set(document["total"]) == {"dense", "zeros", "delta"}
    for mode, total in document["total"].items():
        costs = [layer["costs"][mode] for layer in document["layers"]]
        assert total["cycles"] == pytest.approx(sum(cost["cycles"] for cost in costs))
        assert total["energy_pj"] == pytest.approx(sum(cost["energy_pj"] for cost in costs)) == pytest.approx(sum(total["energy"].values()))
    assert document["total"]["zeros"]["macs"] < document["total"]["delta"]["macs"] < document["total"]["dense"]["macs"] < document["macs"]
    assert 0 < document["layers"][1]["nonzero"] < 1


def test_the_page_stands_alone(modelled: tuple[dict[str, Any], str]) -> None:
    document, page = modelled
    assert "<script" not in page and "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    for mode in ("track", "tone0", "tone1"):
        assert page.count(f'class="{mode}"><title>') == 2 * len(document["layers"]), "a bar for each layer, mode and side"
    assert f"{document['total']['zeros']['cycles']:,.0f} cycles" in page
    assert "modelled by effc, not measured" in page


def test_the_tables(effc: Any, tmp_path: Path) -> None:
    description = tmp_path / "tiny.toml"
    text = next((ROOT / "compiler/effc/cost/accelerator").glob("systolic*.toml")).read_text()
    description.write_text(text.replace("systolic-32x32", "tiny").replace("rows = 32", "rows = 4"))
    result = effc("model-npu", DIGITS, "--accelerator", description, "--no-check-import", "--passes", "fold-batch-norm")
    assert result.exit_code == 0, result.output
    assert "digits.onnx on tiny: 4 x 32" in result.stdout and "density 1" in result.stdout and "lockstep" in result.stdout
    lines = [line.split() for line in result.stdout.split("all layers")[1].splitlines()[1:] if line.strip()]
    totals = {(mode, program): numbers for mode, program, *numbers in (line for line in lines if line[1:2] in (["source"], ["rewritten"]))}
    assert set(totals) == {(mode, program) for mode in ("dense", "zero-skipping", "delta") for program in ("source", "rewritten")}
    for program in ("source", "rewritten"):
        dense, zeros, delta = (totals[mode, program][:-1] for mode in ("dense", "zero-skipping", "delta"))
        assert dense == zeros == delta, "a dense array gains nothing"


def test_what_the_passes_buy(effc: Any, tmp_path: Path) -> None:
    """The source's numbers stand beside those of what a pass made of it, and are those of a run without."""
    page = tmp_path / "page.html"
    options = ("--accelerator", "event-driven", "--data", CALIBRATION, "--samples", 20, "--no-check-import", "--json")
    passes = ("--passes", "delta{mode=truncate,threshold=1.0,dense=never}", "--report", page)
    plain, both = (json.loads(effc("model-npu", DIGITS, *options, *more).stdout) for more in ((), passes))
    assert plain["before"] is None and both["before"]["total"] == plain["total"] and both["before"]["passes"] == []
    assert both["total"]["delta"]["macs"] < plain["total"]["delta"]["macs"]
    cycles = [f"{one['total']['delta']['cycles']:,.0f}" for one in (plain, both)]
    assert f"before the passes: {cycles[0]} cycles" in page.read_text() and f"{cycles[1]} cycles" in page.read_text()


@pytest.mark.parametrize(
    ("value", "said"), [(0, "0"), (0.0004321, "0.000432"), (4, "4.00"), (12.345, "12.3"), (99.96, "100"), (1234.6, "1,235")]
)
def test_small_amounts_do_not_vanish(value: float, said: str) -> None:
    assert amount(value) == said


def test_a_dense_array_has_one_mode(effc: Any, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = effc("model-npu", DIGITS, "--accelerator", "systolic-32x32", "--no-check-import", "--report", page)
    assert result.exit_code == 0, result.output
    text = page.read_text()
    assert "times as long" not in text and 'class="tone0"><title>' not in text and text.count('class="track"><title>') == 8


def test_the_list(effc: Any) -> None:
    result = effc("model-npu", "--list")
    assert result.exit_code == 0 and all(one.name in result.stdout for one in shipped())
    document = json.loads(effc("model-npu", "--list", "--json").stdout)
    assert document == {"accelerators": [one.as_json() for one in shipped()]}


def test_an_artifact_is_its_program(effc: Any, artifact: Path) -> None:
    options = ("--accelerator", "systolic-32x32", "--data", CALIBRATION, "--samples", 3, "--json")
    result = effc("model-npu", artifact, *options)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert [one.split("{")[0] for one in document["passes"]] == ["eliminate-dead", "fold-constants", "fold-batch-norm", "ranger"]
    assert effc("model-npu", artifact, *options, "--passes", "ranger").exit_code == 2


def test_errors(effc: Any, tmp_path: Path) -> None:
    wrong = effc("model-npu")
    assert wrong.exit_code == 2 and "SOURCE" in wrong.stderr and "--accelerator" in wrong.stderr
    assert effc("model-npu", DIGITS, "--accelerator", "systolic").exit_code == 2
    assert effc("model-npu", tmp_path / "none.onnx", "--accelerator", "event-driven").exit_code == 2
    assert effc("model-npu", DIGITS, "--accelerator", "event-driven", "--data", tmp_path / "none.npz").exit_code == 2
    assert effc("model-npu", DIGITS, "--accelerator", "event-driven", "--samples", 3).exit_code == 2
    assert effc("model-npu", DIGITS, "--accelerator", "event-driven", "--report", tmp_path / "page.txt").exit_code == 2
    (tmp_path / "bad.toml").write_text("rows = 0")
    bad = effc("model-npu", DIGITS, "--accelerator", tmp_path / "bad.toml", "--json")
    assert bad.exit_code == 2 and len(json.loads(bad.stdout)["error"]["problems"]) > 4
