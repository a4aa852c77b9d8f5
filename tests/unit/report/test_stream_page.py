"""The page of a stream: lines through the values that were given, bars as long as the shares, nothing from a model out of its text."""

from __future__ import annotations

import math
import re

import pytest

from effc.report import Layer, Memory, Report, StreamLayer, StreamReport, render, render_stream
from effc.report.active_svg import draw_active
from effc.report.line_svg import Line, draw_lines
from effc.report.model import Graph

EVIL = "<script>alert(1)</script>\"'&\x1b[31m"
CONV = StreamLayer("conv1", "conv2d + relu", "listed conv", "", 1000, 400, 0.25)
HEAD = StreamLayer(EVIL, "linear", "matmul", "a note", 500, 0, 1.0)


def points(drawing: str) -> list[list[tuple[float, float]]]:
    """Of every line."""
    lines = re.findall(r'<polyline points="([^"]*)"', drawing)
    return [[(float(x), float(y)) for x, y in (pair.split(",") for pair in line.split())] for line in lines]


def test_lines_go_through_the_values() -> None:
    (line,) = points(draw_lines([Line("a", [0, 50, 100, 150], "line0")], [True, False, False, False], "%", "a line", top=100))
    assert [x for x, _ in line] == pytest.approx([64, 64 + 880 / 3, 64 + 1760 / 3, 944], abs=0.1)
    assert [y for _, y in line] == [192, 110, 28, 28]  # what is over the end of the axis stands at its edge


def test_many_frames_keep_their_extremes() -> None:
    values = [1.0] * 10_000
    values[1234], values[5678] = 9.0, 0.0
    drawing = draw_lines([Line("a", values, "line0")], [False] * 10_000, "ms", "a line", top=10)
    (line,) = points(drawing)
    assert len(line) < 1000
    assert min(y for _, y in line) == pytest.approx(192 - 0.9 * 164, abs=0.1) and max(y for _, y in line) == 192


@pytest.mark.parametrize("values", [[1.0], [math.nan, math.inf], [0.0, 0.0], []])
def test_odd_values_make_a_drawing(values: list[float]) -> None:
    drawing = draw_lines([Line("a", values, "line0")], [True] * len(values), "%", "a line")
    assert "nan" not in drawing and "inf" not in drawing


def test_bars_are_as_long_as_the_shares() -> None:
    drawing = draw_active([CONV, HEAD])
    assert re.findall(r'<rect [^>]*width="([\d.]+)"[^>]*class="(\w+)"', drawing) == [("115.0", "tone0"), ("460.0", "dense")]
    assert ">25.0%<" in drawing and ">dense<" in drawing


def test_the_page() -> None:
    report = StreamReport(
        title=EVIL,
        facts=((EVIL, EVIL),),
        shares=(1.0, 0.2, 0.3),
        whole=(True, False, False),
        milliseconds=(2.0, 0.5, 0.6),
        whole_milliseconds=(2.0, 2.1, 2.2),
        errors=(0.0, 0.01, math.inf),
        usual_errors=(0.0, 0.001, 0.002),
        layers=(CONV, HEAD),
        states=((EVIL, 4000),),
        notes=(EVIL,),
    )
    page = render_stream(report).decode()
    assert "<script" not in page
    assert page.count("<svg") == 4 and "4.0 kB a stream" in page and "has 33.3% of the work" in page


def test_the_report_of_a_compile_shows_both_kinds_of_frame() -> None:
    layers = (Layer("conv1", "conv2d", "listed conv", 1000, 20, 10.0, listed=True), Layer("head", "linear", "matmul", 10, 20, 5.0))
    whole = (Layer("c", "conv2d", "conv", 1000, 20, None),)
    memory = Memory(64, 128, 3, (), (("stream.x", 16), ("stream.a", 8)))
    report = Report("net", (), Graph(()), Graph(()), layers=layers, memory=memory, whole_layers=whole)
    page = render(report).decode()
    assert page.count('<span class="tag">changes</span>') == 2  # one of the steps, and the sentence that says what it means
    for part in ("A frame that is computed whole", "1 step, 1,000 MACs", "stream.x", "0.0 kB. Every stream has its own"):
        assert part in page
