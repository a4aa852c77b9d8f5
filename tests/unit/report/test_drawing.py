"""Reports: what is drawn is what was given, nothing overlaps, nothing from a model gets out of its text."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import combinations

from effc.report import Graph, Layer, Memory, Node, PassReport, Quality, Range, Report, render
from effc.report.folding import fold
from effc.report.graph_svg import draw_graph
from effc.report.layout import layered
from effc.report.model import Block
from effc.report.range_svg import draw_ranges

EVIL = "<script>alert(1)</script>\"'&\x1b[31m"


def node(name: str, op: str, *inputs: str, mark: str = "") -> Node:
    return Node(name, op, name, "N×8", inputs, mark)


def residual_network(blocks: int) -> Graph:
    """input, then blocks of conv-norm-relu-conv-norm with a skip, as ResNets have them."""
    nodes, last = [node("in", "input")], "in"
    for index in range(blocks):
        names = [f"b{index}.{part}" for part in ("conv1", "norm1", "relu1", "conv2", "norm2", "add", "relu2")]
        nodes += [
            node(names[0], "conv2d", last),
            node(names[1], "batch_norm", names[0]),
            node(names[2], "relu", names[1]),
            node(names[3], "conv2d", names[2]),
            node(names[4], "batch_norm", names[3]),
            node(names[5], "add", names[4], last),
            node(names[6], "relu", names[5]),
        ]
        last = names[6]
    return Graph((*nodes, node("out", "output", last)))


class TestFold:
    def test_chains_become_boxes_and_no_operator_is_lost(self) -> None:
        graph = residual_network(3)
        boxes = fold(graph)
        assert [[one.op for one in box.nodes] for box in boxes[1:4]] == [
            ["conv2d", "batch_norm", "relu"],
            ["conv2d", "batch_norm"],
            ["add", "relu"],
        ]
        assert [one.name for box in boxes for one in box.nodes] == [one.name for one in graph.nodes]

    def test_repeats_fold_with_their_count(self) -> None:
        boxes = fold(residual_network(16), limit=10)
        assert sum(len(box.nodes) * box.repeats for box in boxes) == 16 * 7 + 2
        assert {box.repeats for box in boxes if box.run >= 0} == {16}

    def test_edges_lead_to_boxes_that_are_there(self) -> None:
        boxes = fold(residual_network(16), limit=10)
        names = {box.name for box in boxes}
        assert all(set(box.inputs) <= names for box in boxes)

    def test_a_value_used_later_keeps_its_run_apart(self) -> None:
        """A skip over two blocks must not vanish into a repeat."""
        graph = residual_network(4)
        far = node("far", "add", "b3.relu2", "b0.relu1")
        boxes = fold(Graph((*graph.nodes, far)), limit=1)
        [last] = [box for box in boxes if box.nodes[0].op == "add" and box.nodes[0].name == "far"]
        assert "b0.relu1" in last.inputs


def test_boxes_do_not_overlap_and_stand_below_their_inputs() -> None:
    boxes = fold(residual_network(5))
    inputs = {box.name: box.inputs for box in boxes}
    places, routes, width, height = layered([box.name for box in boxes], inputs, {box.name: (90.0, 40.0) for box in boxes})
    for one, other in combinations(places.values(), 2):
        apart = (
            one.x + one.width <= other.x
            or other.x + other.width <= one.x
            or one.y + one.height <= other.y
            or other.y + other.height <= one.y
        )
        assert apart
    for name, sources in inputs.items():
        assert all(places[source].y + places[source].height < places[name].y for source in sources)
    assert len(routes) == sum(map(len, inputs.values()))
    assert all(one.x >= 0 and one.x + one.width <= width + 1e-6 and one.y + one.height <= height + 1e-6 for one in places.values())


def test_an_empty_graph_is_drawn() -> None:
    assert draw_graph(Graph(()), "nothing").startswith("<svg")


def test_ranges_handle_zero_and_huge_values() -> None:
    drawing = draw_ranges([Range("a", 0.0, 0.0, 0.0), Range("b", -1e30, 1e-30, 1.0, -1e30, 1e30), Range("c", 0.0, 6.0, 0.5, 0.0, 6.0)])
    numbers = [float(x) for x in re.findall(r' x="(-?[\d.]+|nan|inf)"', drawing)]
    assert all(-1 <= x <= 961 for x in numbers)


class _Page(HTMLParser):
    """Collects the tags and fails on unbalanced ones."""

    VOID = frozenset({"meta", "br", "rect", "line", "path", "link"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert not any(
            name.startswith("on") or ((value or "").startswith(("http://", "https://", "//")) and name != "xmlns") for name, value in attrs
        )
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_is_whole_and_what_models_say_stays_text() -> None:
    graph = Graph(
        (Node("in:x", "input", EVIL, "N", ()), Node("a", EVIL, EVIL, EVIL, ("in:x",), "added"), Node("out:y", "output", EVIL, "N", ("a",)))
    )
    decision = {"site": EVIL, "op": EVIL, "done": True, "why": EVIL}
    report = Report(
        title=EVIL,
        facts=((EVIL, EVIL),),
        before=graph,
        after=graph,
        quality=Quality("top1", 360, 0.98, 0.97, 0.01, -0.002, 0.021, None, 6),
        passes=(PassReport(EVIL, False, None, 0.1, 3, 4, (decision,)), PassReport("exact", True, 0.0, 0.1, 4, 4)),
        layers=(Layer(EVIL, EVIL, EVIL, 10, 20, None), Layer("b", "relu", "generic", 0, 20, 1500.0)),
        memory=Memory(4096, 128, 2, (Block(EVIL, 0, 4096, 0, 1),)),
        ranges=(Range(EVIL, 0.0, 4.0, 0.4, 0.0, 4.0),),
        notes=(EVIL,),
    )
    text = render(report).decode()
    page = _Page()
    page.feed(text)
    assert page.open == []
    assert "script" not in page.tags
    assert "http" not in text.replace('xmlns="http://www.w3.org/2000/svg"', "").replace('http-equiv="', "")
    assert "prefers-color-scheme: dark" in text
    assert "1 of 1 site changed, 3 → 4 operators" in text and "kB for 1 tensor that" in text


def test_on_a_narrow_page_only_the_page_scrolls() -> None:
    """A pass's rows stand below each other there, without a bar of their own inside the page."""
    style = render(Report("digits", (), Graph(()), Graph(()))).decode().partition("@media (max-width: 640px)")[2]
    assert "details .inside { max-height: none; overflow: visible; }" in style
    assert ".inside tr { display: grid;" in style


def test_columns_of_what_was_not_measured_are_left_out() -> None:
    def page(taken: float | None) -> str:
        return render(Report("digits", (), Graph(()), Graph(()), layers=(Layer("a", "relu", "elementwise", 0, 20, taken),))).decode()

    assert "µs" in page(1500.0) and "µs" not in page(None)


def test_a_constant_stands_right_above_its_reader() -> None:
    """At the top it would draw a line past the whole network."""
    inputs = {"x": (), "a": ("x",), "b": ("a",), "constant": (), "sum": ("b", "constant")}
    places, _, _, _ = layered(list(inputs), inputs, dict.fromkeys(inputs, (50.0, 20.0)))
    assert places["constant"].layer == places["sum"].layer - 1
