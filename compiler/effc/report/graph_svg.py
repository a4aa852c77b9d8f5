"""A program's graph as a drawing: boxes of operators from top to bottom."""

from __future__ import annotations

import html

from effc.report.folding import Box, fold
from effc.report.layout import Place, layered
from effc.report.model import Graph
from effc.report.svg import document, shortened, text

__all__ = ["draw_graph"]

_LINE, _PAD, _MARGIN = 17.0, 8.0, 14.0
_CHARACTER = 7.3  # width of the page's 12 px monospace
_SMALL = 6.1  # of its 10 px one
_LABEL = 30  # characters of a name
_SIGN = {"added": "+ ", "removed": "− "}


def draw_graph(graph: Graph, label: str) -> str:
    """The drawing as inline SVG."""
    boxes = fold(graph)
    sizes = {box.name: _size(box) for box in boxes}
    names = [box.name for box in boxes]
    places, routes, width, height = layered(names, {box.name: box.inputs for box in boxes}, sizes)
    frames, room = _frames(boxes, places)
    shift = _MARGIN + room
    parts = [f'<g transform="translate({shift:.1f},{_MARGIN:.1f})">']
    parts += [_edge(points) for points in routes.values()]
    parts += [_box(box, places[box.name]) for box in boxes]
    parts += frames
    parts.append("</g>")
    return document(parts, width + 2 * shift, height + 2 * _MARGIN, label, "graph")


def _size(box: Box) -> tuple[float, float]:
    rows = [_SIGN.get(node.mark, "") + node.op for node in box.nodes]
    widest = max(len(row) for row in rows) * _CHARACTER
    name = len(shortened(box.nodes[0].label, _LABEL)) * _SMALL
    shape = len(box.nodes[-1].shape) * _SMALL
    return max(widest + shape + 18, name, 70.0) + 2 * _PAD, _LINE * len(rows) + 14 + 2 * _PAD


def _box(box: Box, place: Place) -> str:
    kind = box.nodes[0].op if box.nodes[0].op in ("input", "output") else "op"
    names = "\n".join(f"{node.op}  {node.label}  {node.shape}" for node in box.nodes)
    parts = [
        f'<g class="box {kind}"><title>{html.escape(names)}</title>',
        f'<rect x="{place.x:.1f}" y="{place.y:.1f}" width="{place.width:.1f}" height="{place.height:.1f}" rx="5"/>',
        text(place.x + _PAD, place.y + _PAD + 7, shortened(box.nodes[0].label, _LABEL), "name"),
    ]
    for index, node in enumerate(box.nodes):
        y = place.y + _PAD + 14 + _LINE * index
        if node.mark:
            size = f'width="{place.width - 6:.1f}" height="{_LINE - 1:.1f}"'
            parts.append(f'<rect x="{place.x + 3:.1f}" y="{y:.1f}" {size} rx="3" class="mark {node.mark}"/>')
        parts.append(text(place.x + _PAD, y + 12, _SIGN.get(node.mark, "") + node.op, f"operator {node.mark}"))
    bottom = place.y + _PAD + 14 + _LINE * (len(box.nodes) - 1)
    parts.append(text(place.x + place.width - _PAD, bottom + 12, box.nodes[-1].shape, "shape", "end"))
    return "".join([*parts, "</g>"])


def _edge(points: list[tuple[float, float]]) -> str:
    """A smooth line through the points that leaves and enters vertically, with an arrow head."""
    (x, y), *rest = points
    path = [f"M{x:.1f} {y:.1f}"]
    for next_x, next_y in rest:
        middle = (y + next_y) / 2
        path.append(f"C{x:.1f} {middle:.1f} {next_x:.1f} {middle:.1f} {next_x:.1f} {next_y:.1f}")
        x, y = next_x, next_y
    head = f'<path class="head" d="M{x - 3.5:.1f} {y - 6:.1f}L{x:.1f} {y:.1f}L{x + 3.5:.1f} {y - 6:.1f}z"/>'
    return f'<path class="edge" d="{" ".join(path)}"/>{head}'


def _frames(boxes: tuple[Box, ...], places: dict[str, Place]) -> tuple[list[str], float]:
    """A dashed frame with a count round every run that stands for several, and the room that they need at the sides."""
    parts: list[str] = []
    for run in sorted({box.run for box in boxes if box.run >= 0}):
        members = [box for box in boxes if box.run == run]
        inside = [places[box.name] for box in members]
        left, top = min(one.x for one in inside) - 8, min(one.y for one in inside) - 8
        right, bottom = max(one.x + one.width for one in inside) + 8, max(one.y + one.height for one in inside) + 8
        size = f'width="{right - left:.1f}" height="{bottom - top:.1f}"'
        parts.append(f'<rect x="{left:.1f}" y="{top:.1f}" {size} rx="9" class="run"/>')
        parts.append(f'<rect x="{right - 40:.1f}" y="{top - 10:.1f}" width="32" height="20" rx="10" class="pill"/>')
        parts.append(text(right - 24, top + 5, f"×{members[0].repeats}", "times", "middle"))
    return parts, 10.0 if parts else 0.0
