"""The page of an accelerator's model: one self-contained HTML file, like a compile's report."""

from __future__ import annotations

from importlib import resources

from effc.errors import counted
from effc.report.accelerator import MODES, AcceleratorReport, amount
from effc.report.accelerator_svg import COLOURS, draw_accelerator

__all__ = ["render_accelerator"]


def render_accelerator(report: AcceleratorReport) -> bytes:
    """The page as UTF-8."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "kilobytes": lambda count: amount(count / 1000),
        "count": lambda count: f"{count:,.0f}",
        "counted": counted,
        "percent": lambda share: f"{share:.1%}",
        "duration": lambda seconds: f"{seconds * 1000:.4g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs",
        "microjoules": lambda picojoules: amount(picojoules / 1e6),
    }
    template = environment.from_string(resources.files("effc.report").joinpath("accelerator.html.jinja").read_text(encoding="utf-8"))
    page = template.render(
        report=report,
        style=Markup(resources.files("effc.report").joinpath("page.css").read_text(encoding="utf-8")),
        drawing=Markup(draw_accelerator(report.layers, report.own_modes)),
        names=MODES,
        colours=COLOURS,
        totals={mode: report.total(mode) for mode in report.modes},
    )
    return page.encode()
