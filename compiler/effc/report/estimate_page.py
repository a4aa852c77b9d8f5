"""The page of an estimate: one self-contained HTML file, like a compile's report."""

from __future__ import annotations

from importlib import resources

from effc.errors import counted
from effc.report.arena_svg import draw_arena, overlaps
from effc.report.estimate import EstimateReport, span_text
from effc.report.families import described

__all__ = ["render_estimate"]


def render_estimate(report: EstimateReport) -> bytes:
    """The page as UTF-8."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "kilobytes": lambda count: f"{count / 1000:,.1f}",
        "count": lambda count: f"{count:,}",
        "counted": counted,
        "span": span_text,
    }
    template = environment.from_string(resources.files("effc.report").joinpath("estimate.html.jinja").read_text(encoding="utf-8"))
    most = report.peak_bytes
    page = template.render(
        report=report,
        style=Markup(resources.files("effc.report").joinpath("page.css").read_text(encoding="utf-8")),
        arena=Markup(draw_arena(report.memory, [layer.name for layer in report.layers])) if report.memory.blocks else None,
        shared=len(overlaps(report.memory)),
        families=described(layer.family for layer in report.layers),
        share=lambda layer: 100 * layer.arena_bytes / most if most else 0.0,
    )
    return page.encode()
