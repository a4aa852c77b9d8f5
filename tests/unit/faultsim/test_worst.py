"""The reports of a bit search: all of it as JSON, a list of what differs in the end, and a page that trusts no name."""

from __future__ import annotations

import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from effc.errors import OutputError
from effc.faultsim.bit_search import SearchResult, SearchSpec, SearchStep
from effc.faultsim.random_flips import RandomFlips
from effc.faultsim.reports.csv_report import ListedFault, read_faults
from effc.faultsim.reports.worst import draw_worst, make_folder, write_worst

HOSTILE = "</title><script>alert(1)</script>\"'&{{ 7 * 7 }}\u202e,\n"
SPEC = SearchSpec("int8", flips=4, bits=(6, 7), layers=(HOSTILE,))


def step(flip: int, index: tuple[int, ...], bit: int, loss: float, distance: int) -> SearchStep:
    return SearchStep(flip, HOSTILE, "layer", index, bit, 0.5, -0.25, loss, 1 - flip / 4, distance, 1)


STEPS = (step(1, (0, 1), 7, 1.5, 1), step(2, (2, 0), 6, 2.5, 2), step(3, (0, 1), 7, 3.5, 1), step(4, (0, 1), 6, math.inf, 2))
FOUND = SearchResult(1.0, 0.875, 0.5, STEPS, "the loss of every sample is infinite: there is nothing left to raise", (HOSTILE,), 96)
BESIDE = RandomFlips(1.0, 0.875, 96, np.array([[0.75, 0.5, 0.5, 0.25], [0.875, 0.75, 0.25, 0.0]]))


class Tags(HTMLParser):
    """Tags, attributes that run something, and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[Any]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def test_all_of_it_as_json(tmp_path: Path) -> None:
    document, written = write_worst(tmp_path / "new" / "out", HOSTILE, SPEC, FOUND, BESIDE)
    assert sorted(written) == sorted(path.name for path in (tmp_path / "new" / "out").iterdir())
    assert json.loads((tmp_path / "new" / "out" / "worst.json").read_bytes()) == document
    assert (document["schema"], document["schema_version"], document["model"]) == ("effc.faultsim.worst", 1, HOSTILE)
    assert document["spec"] == {"view": "int8", "flips": 4, "candidates": 10, "bits": [6, 7], "layers": [HOSTILE]}
    assert document["accuracy"] == {"clean": 1.0, "in_view": 0.875}
    assert [one["loss"] for one in document["searched"]] == [1.5, 2.5, 3.5, "Infinity"]
    assert document["searched"][1]["index"] == [2, 0] and document["searched"][3]["distance"] == 2
    assert document["random"]["draws"] == 2
    level = document["random"]["levels"][3]
    assert (level["flips"], level["mean"], level["minimum"]) == (4, 0.125, 0.0)
    assert level["quantiles"]["0.5"] == 0.125 and level["quantiles"]["0.95"] == pytest.approx(0.2375)


def test_the_list_has_what_differs_in_the_end(tmp_path: Path) -> None:
    """A bit that was flipped back is not in it: a list with one bit twice is refused."""
    named = tuple(SearchStep(**{**one.__dict__, "tensor": "layer.weight"}) for one in STEPS)
    write_worst(tmp_path, "m", SPEC, SearchResult(1.0, 0.875, 0.5, named, "", ("layer.weight",), 96), BESIDE)
    assert read_faults(tmp_path / "worst.csv") == [ListedFault(0, "layer.weight", (2, 0), 6), ListedFault(0, "layer.weight", (0, 1), 6)]


def test_names_are_text_on_the_page(tmp_path: Path) -> None:
    write_worst(tmp_path, HOSTILE, SPEC, FOUND, BESIDE)
    page = (tmp_path / "worst.html").read_bytes().decode()
    tags = Tags(page)
    assert "script" not in tags.tags and not any(name.startswith("on") for name in tags.attributes)
    assert "\u202e" not in page and "49" not in tags.text.split("Worst bit flips of", 1)[1].split("by effc")[0]
    assert tags.text.count("</title><script>alert(1)</script>\"'&{{ 7 * 7 }}\ufffd,\ufffd") >= 2 + len(STEPS)
    assert "87.5 %" in tags.text and "mean of 2 draws" in tags.text and "inf" in tags.text


def test_the_drawing_is_xml_with_a_dot_for_each_flip() -> None:
    root = ElementTree.fromstring(draw_worst(FOUND, BESIDE.levels))
    dots = [one for one in root.iter() if one.tag.endswith("circle")]
    assert len(dots) == 4
    heights = [float(dot.attrib["cy"]) for dot in dots]
    assert heights == sorted(heights)  # accuracy falls, and zero is at the bottom
    nothing = SearchResult(1.0, 1.0, 0.0, (), "nothing raises the loss", ("w",), 8)
    assert not [one for one in ElementTree.fromstring(draw_worst(nothing, ())).iter() if one.tag.endswith("circle")]


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError, match="cannot be written"):
            make_folder(folder)
        with pytest.raises(OutputError, match="cannot be written"):
            write_worst(folder, "m", SPEC, FOUND, BESIDE)
    make_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    assert (tmp_path / "file").read_bytes() == b"mine"
