"""What the benchmark of accelerators shows: counts by hand, tables of a page, a picture that stands alone."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks import accelerator_cycles, accelerator_networks, accelerators_page
from benchmarks.accelerator_counts import counts_part
from benchmarks.accelerators_picture import draw


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
    products = [(shape.product, shape.times) for shape in accelerator_cycles.RESNET18]
    assert sum(times for _, times in products) == 21
    assert sum(product.macs * times for product, times in products) == 1_814_073_344
    assert sum(product.weights * times for product, times in products) == 11_678_912


def test_the_page_sums_layers_and_names_what_failed() -> None:
    parts = accelerators_page.parts(result())
    assert "| 32 x 32 | weight-stationary | 4 | 1,300 | 1,297 | 1.0101%, one |" in parts["cycles"]
    assert "0 of 1 claims hold." in parts["claims"] and "Missed: a: 1.0, needed at least 2." in parts["claims"]
    assert "C: skipped, not there." in parts["claims"] and parts["networks"].count("\n") == 4
    with pytest.raises(ValueError, match="quick"):
        accelerators_page.parts(result(quick=True))


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
