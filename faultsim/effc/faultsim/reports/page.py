"""`report.html` of a campaign: one self-contained page. Everything from a model is escaped; there is no script and nothing is fetched."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

from effc.errors import counted
from effc.faultsim.gates import Verdict, short
from effc.faultsim.reports.accuracy_svg import draw_accuracy
from effc.faultsim.reports.definitions import LABELS, definitions
from effc.faultsim.reports.heat_svg import STEPS, draw_heat
from effc.faultsim.reports.interval_svg import Bar, draw_intervals
from effc.faultsim.reports.json_report import overall_outcome
from effc.faultsim.reports.texts import bare, flattened, interval, number, percent, visible, with_interval
from effc.faultsim.summary import Cell, FaultRow, Summary

__all__ = ["MOST_LAYERS", "html_report"]

MOST_LAYERS = 120  # rows of a drawing; the most critical ones are kept
_GROUPS = 24  # groups that stand open
_ORDER = ("FAIL", "INCONCLUSIVE", "PASS")


def html_report(summary: Summary, verdicts: Sequence[Verdict]) -> bytes:
    """The page as UTF-8."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "bare": bare,
        "counted": counted,
        "interval": interval,
        "number": number,
        "percent": percent,
        "short": short,
        "visible": visible,
        "with_interval": with_interval,
        "thousands": lambda count: f"{count:,}",
    }
    here = resources.files("effc.faultsim.reports")
    template = environment.from_string(here.joinpath("page.html.jinja").read_text(encoding="utf-8"))
    layers = _most_critical(summary.layers)
    sweep = [group for group in summary.groups if group.rate is not None]
    style = resources.files("effc.report").joinpath("page.css").read_text(encoding="utf-8")
    style += here.joinpath("faults.css").read_text(encoding="utf-8")
    page = template.render(
        summary=summary,
        verdicts=sorted(verdicts, key=lambda verdict: _ORDER.index(verdict.outcome)),
        outcome=overall_outcome(verdicts),
        style=Markup(style),
        campaign=flattened({name: part for name, part in summary.campaign.items() if name != "design"}),
        definitions=definitions(summary.classes),
        labels=LABELS,
        sweep=sweep,
        others=[group for group in summary.groups if group.rate is None],
        open_groups=_GROUPS,
        curve=Markup(draw_accuracy(sweep, summary.golden_accuracy)),
        classes=Markup(
            draw_intervals([Bar(LABELS.get(name, name), one) for name, one in summary.overall.items()], "of all inferences", log=True)
        ),
        heat=Markup(draw_heat(summary.cells, [cell.layer or "" for cell in layers])),
        steps=list(enumerate(name for _, name in STEPS)),
        layers=Markup(
            draw_intervals(_bars(layers, summary.layers), "critical, of inferences with a fault in the layer", "of all critical")
        ),
        bits=Markup(
            draw_intervals(_bars(_from_the_top(summary.bits), summary.bits), "critical, of inferences", "of all critical", log=True)
        ),
        left_out=len(summary.layers) - len(layers),
        share=_share,
    )
    return page.encode(errors="replace")


def _share(row: FaultRow) -> str:
    return percent(row.critical / row.inferences if row.inferences else None)


def _most_critical(layers: Sequence[Cell]) -> list[Cell]:
    """In the network's order; where there are too many, the least critical ones are left out."""
    ranked = sorted(range(len(layers)), key=lambda index: (-layers[index].critical.value, index))
    return [layers[index] for index in sorted(ranked[:MOST_LAYERS])]


def _from_the_top(bits: Sequence[Cell]) -> list[Cell]:
    return sorted(bits, key=lambda cell: -(cell.bit or 0))


def _bars(shown: Sequence[Cell], every: Sequence[Cell]) -> list[Bar]:
    """Rows with what each adds to the critical share of the whole population: its own share, weighted by its bits."""
    total = sum(cell.population * cell.critical.value for cell in every if cell.injections)
    bars = []
    for cell in shown:
        label = cell.layer if cell.layer is not None else f"bit {cell.bit}"
        if not cell.injections:
            bars.append(Bar(label, None))
            continue
        part = cell.population * cell.critical.value / total if total else 0.0
        hover = f"{label}: {with_interval(cell.critical)} critical, {cell.injections:,} injections, {cell.population:,} bits"
        bars.append(Bar(label, cell.critical, percent(float(f"{part:.2g}")) if part else "–", hover))
    return bars
