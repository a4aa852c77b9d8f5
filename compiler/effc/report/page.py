"""`report.html`: one self-contained page. Everything from a model is escaped; there is no script and nothing is fetched."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from typing import Any

from effc.errors import counted
from effc.report.arena_svg import draw_arena, overlaps, unused
from effc.report.curve_svg import draw_curve
from effc.report.density_svg import draw_magnitudes
from effc.report.families import described
from effc.report.graph_svg import draw_graph
from effc.report.model import Layer, Report
from effc.report.range_svg import draw_ranges
from effc.report.sparsity import Magnitudes

__all__ = ["render"]

_OPEN = 12  # drawings of magnitudes that stand open


def render(report: Report) -> bytes:
    """The page as UTF-8."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"kilobytes": _kilobytes, "count": _count, "microseconds": _microseconds, "counted": counted}
    template = environment.from_string(resources.files("effc.report").joinpath("page.html.jinja").read_text(encoding="utf-8"))
    steps = [layer.name for layer in (*report.layers, *report.whole_layers)]
    longest = max((layer.nanoseconds or 0.0 for layer in report.layers), default=0.0)
    most = max((layer.macs for layer in report.layers), default=0)
    page = template.render(
        report=report,
        style=Markup(resources.files("effc.report").joinpath("page.css").read_text(encoding="utf-8")),
        before=Markup(draw_graph(report.before, "the network before the passes")),
        after=Markup(draw_graph(report.after, "the network after the passes")),
        memory=Markup(draw_arena(report.memory, steps)) if report.memory is not None and report.memory.blocks else None,
        shared=len(overlaps(report.memory)) if report.memory is not None else 0,
        unused=unused(report.memory) if report.memory is not None else [],
        ranges=Markup(draw_ranges(report.ranges)) if report.ranges else None,
        curves=[(curve, Markup(draw_curve(curve))) for curve in report.curves],
        spreads=[(group, [(one, Markup(draw_magnitudes(one))) for one in members]) for group, members in _groups(report.magnitudes)],
        operators={name: _operators(graph) for name, graph in (("before", report.before), ("after", report.after))},
        families=described(layer.family for layer in (*report.layers, *report.whole_layers)),
        share=lambda layer: _share(layer, longest, most),
        has_predictions=any(layer.predicted is not None for layer in report.layers),
        has_times=any(layer.nanoseconds is not None for layer in report.layers),
        total_time=sum(layer.nanoseconds or 0.0 for layer in report.layers) or None,
    )
    return page.encode()


def _groups(magnitudes: Sequence[Magnitudes]) -> list[tuple[str, list[Magnitudes]]]:
    """Few drawings stand open in one group; many are folded up, block by block."""
    if len(magnitudes) <= _OPEN:
        return [("", list(magnitudes))] if magnitudes else []
    groups: dict[str, list[Magnitudes]] = {}
    for one in magnitudes:
        groups.setdefault(one.group or "other layers", []).append(one)
    return list(groups.items())


def _operators(graph: Any) -> int:
    return sum(node.op not in ("input", "output") for node in graph.nodes)


def _share(layer: Layer, longest: float, most: int) -> float:
    """Length of a layer's bar in percent: its time, or its work where nothing was measured."""
    if longest:
        return 100 * (layer.nanoseconds or 0.0) / longest
    return 100 * layer.macs / most if most else 0.0


def _kilobytes(count: int) -> str:
    return f"{count / 1000:,.1f}"


def _count(count: int) -> str:
    return f"{count:,}"


def _microseconds(nanoseconds: float) -> str:
    return f"{nanoseconds / 1000:,.1f}"
