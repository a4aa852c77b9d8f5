"""What the benchmark of accelerators shows: counts by hand, tables of a page, a picture that stands alone."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks import accelerator_counts, accelerator_cycles, accelerator_networks, accelerators_page
from benchmarks.accelerator_counts import counts_part
from benchmarks.accelerators import PARTS, Part, measure
from benchmarks.accelerators_picture import draw
from benchmarks.documents import between
from benchmarks.harness import Options, Outcome


def result(quick: bool = False) -> dict[str, Any]:
    cycles = {"table": accelerator_cycles.TABLE, "array": "32 x 32", "dataflow": "weight-stationary"}
    network = {"table": accelerator_networks.TABLE, "network": "A & B", "machine": "m", "cycles": 10}
    rows = [
        {**cycles, "layer": "one", "layers": 3, "effc": 100, "SCALE-Sim": 99},
        {**cycles, "layer": "two", "layers": 1, "effc": 1000, "SCALE-Sim": 1000},
        {**network, "mode": "dense", "energy µJ": 4.0},
        {**network, "mode": "delta, threshold 0.1", "energy µJ": 2.0, "error": "3.0%"},
        {**network, "machine": "(least)", "mode": "dense"},
        {"model": "C", "skipped": "not there"},
    ]
    claims = [{"name": "a", "value": 1.0, "bar": 2, "sense": "at least", "holds": False}]
    return {"machine": {"quick": quick}, "rows": rows, "claims": claims}


def test_small_convolutions_are_counted_as_by_hand() -> None:
    outcome = counts_part(quick=True)
    assert [claim.holds for claim in outcome.claims] == [True]
    assert all(0 < row["delta, by hand"] < row["dense"] and 0 < row["zeros, by hand"] < row["dense"] for row in outcome.rows)


def test_shapes_of_resnet18() -> None:
    """1.81 G multiply-accumulates and 11.7 M weights without biases and norms, as torchvision's resnet18 has."""
    products = accelerator_cycles.resnet18_products()
    assert len(products) == 21 and [one.name for one in products[:2]] == ["conv1", "layer1.0.conv1"]
    assert sum(one.macs for one in products) == 1_814_073_344
    assert sum(one.weights for one in products) == 11_678_912
    assert [accelerator_cycles.topology(one) for one in (products[0], products[5], products[-1])] == [
        (229, 7, 3, 64, 2),
        (57, 3, 64, 128, 2),
        (1, 1, 512, 1000, 1),
    ]


def test_the_page_sums_layers_and_names_what_failed() -> None:
    parts = accelerators_page.parts(result())
    assert "| 32 x 32 | weight-stationary | 4 | 1,300 | 1,297 | 1.0101%, one |" in parts["cycles"]
    assert "0 of 1 claims hold." in parts["claims"] and "Missed: a: 1.0, needed at least 2." in parts["claims"]
    assert "C: skipped, not there." in parts["claims"] and parts["networks"].count("\n") == 4
    assert "| a | 1 | at least 2 | no |" in parts["claims"]


def test_parts_are_joined_only_to_a_whole_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerators_page, "PARTS", {"one": Part(lambda quick: Outcome(), 1), "two": Part(lambda quick: Outcome(), 1)})
    first, second = result(), result()
    first["rows"].pop()  # nothing was skipped
    second["rows"], second["claims"] = [], [{**second["claims"][0], "name": "b"}]
    whole = accelerators_page.joined([first, second])
    assert [claim["name"] for claim in whole["claims"]] == ["a", "b"] and len(whole["rows"]) == 5
    for files, why in (([first], "makes 2 claims, here are 1"), ([first, first], "twice"), ([first, result(quick=True)], "quick")):
        with pytest.raises(ValueError, match=why):
            accelerators_page.joined(files)
    assert accelerators_page.joined([result()])["claims"], "what was skipped may have fewer"


def test_the_pages_hold_all_claims_and_have_all_marks() -> None:
    pages = {name: (accelerators_page.DOCS / name).read_text() for name in accelerators_page.PAGES}
    for name, marks in accelerators_page.PAGES.items():
        assert all(pages[name].count(f"<!-- {mark}:{which} -->") == 1 for mark in marks for which in ("begin", "end")), name
        assert all(between(pages[name], mark).strip() for mark in marks), f"{name}: run benchmarks.accelerators_page"
    claims = between(pages["accelerators.md"], "claims")
    assert f" of {sum(part.claims for part in PARTS.values())} claims hold." in claims


def test_a_part_alone() -> None:
    outcome = measure(Options(quick=True, more={"part": ["counts"]}))
    assert len(outcome.claims) == PARTS["counts"].claims and {row["table"] for row in outcome.rows} == {accelerator_counts.TABLE}


def test_the_picture_is_well_formed() -> None:
    rows = [row for row in result()["rows"] if row.get("table") == accelerator_networks.TABLE]
    drawing = ElementTree.fromstring(draw(rows))
    bars = [one for one in drawing.iter("{http://www.w3.org/2000/svg}rect") if one.get("class") != "ground"]
    assert [(one.get("class"), one.get("width")) for one in bars] == [
        ("dense", "230.0"),
        ("dense", "210.0"),
        ("delta", "230.0"),
        ("delta", "105.0"),
    ]
