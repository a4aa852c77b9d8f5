"""The page of a stream: one self-contained HTML file, like a compile's report."""

from __future__ import annotations

from importlib import resources

from effc.errors import counted
from effc.report.active_svg import draw_active
from effc.report.line_svg import Line, draw_lines
from effc.report.stream import StreamReport

__all__ = ["render_stream"]

_HIGHEST = 0.995  # quantile of times at which their axis ends: one frame that the machine was busy for would flatten the rest


def render_stream(report: StreamReport) -> bytes:
    """The page as UTF-8."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"kilobytes": lambda count: f"{count / 1000:,.1f}", "count": lambda count: f"{count:,}", "counted": counted}
    template = environment.from_string(resources.files("effc.report").joinpath("stream.html.jinja").read_text(encoding="utf-8"))
    percents = [Line("computed", [100 * share for share in report.shares], "line0")]
    times = [Line("the stream", report.milliseconds, "line0")]
    if report.whole_milliseconds:
        times.append(Line("every frame whole", report.whole_milliseconds, "line1"))
    errors = [
        Line("largest", [100 * error for error in report.errors], "line0"),
        Line("99.9th percentile", [100 * error for error in report.usual_errors], "line1"),
    ]
    busy = [layer for layer in report.layers if layer.macs]
    page = template.render(
        report=report,
        style=Markup(resources.files("effc.report").joinpath("page.css").read_text(encoding="utf-8")),
        shares=Markup(draw_lines(percents, report.whole, "%", "share of multiply-accumulates computed for each frame", top=100.0)),
        times=Markup(draw_lines(times, report.whole, "ms", "time of each frame", top=_end(times))),
        errors=Markup(draw_lines(errors, report.whole, "%", "error of each frame")) if report.errors else None,
        layers=Markup(draw_active(busy)) if busy else None,
        dense=[layer for layer in busy if layer.is_dense],
        busy=busy,
        macs=sum(layer.macs for layer in busy),
        state_bytes=sum(size for _, size in report.states),
    )
    return page.encode()


def _end(lines: list[Line]) -> float:
    values = sorted(value for line in lines for value in line.values)
    return 1.15 * values[min(len(values) - 1, int(_HIGHEST * len(values)))] if values else 1.0
