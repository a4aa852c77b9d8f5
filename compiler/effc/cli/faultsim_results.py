"""What a campaign shows, and the files it leaves: the reports, and beside them how long it took."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effc.cli.console import emit_json, note, table

if TYPE_CHECKING:
    from effc.faultsim.campaign import Campaign
    from effc.faultsim.gates import Requirement, Verdict
    from effc.faultsim.summary import Summary

__all__ = ["show"]

_FAILED, _INCONCLUSIVE = 1, 7
_SHOWN = 10  # worst layers and bits on the screen
TIMES = "measurements.json"


def show(campaign: Campaign, requirements: Sequence[Requirement], folder: Path, *, seconds: float | None, as_json: bool) -> int:
    """Write the reports into the campaign's folder, show the result, and say which exit code it is.

    Args:
        campaign: finished, or a part. `requirements`: what to judge.
        folder: of the campaign. `seconds`: how long this run took; None where nothing ran.
        as_json: the report as JSON on stdout instead of tables.
    """
    from effc.faultsim.gates import judge
    from effc.faultsim.reports.json_report import json_report
    from effc.faultsim.reports.writing import write_reports
    from effc.faultsim.summarise import fault_rows, summarise
    from effc.faultsim.whole_files import write_whole

    summary = summarise(campaign)
    verdicts = [judge(requirement, summary) for requirement in requirements]
    written = write_reports(folder, summary, verdicts, fault_rows(campaign))
    if seconds is not None:
        write_whole(folder / TIMES, _times(seconds, summary))
    if as_json:
        emit_json(json.loads(json_report(summary, verdicts)))
    else:
        _show(summary, verdicts)
        took = "" if seconds is None else f" in {seconds:.1f} s"
        took += f" ({campaign.found:,} were there already)" if campaign.found and seconds is not None else ""
        note(f"{summary.done:,} injections{took}; {folder}: {', '.join(written)}")
    outcomes = {verdict.outcome for verdict in verdicts}
    return _FAILED if "FAIL" in outcomes else _INCONCLUSIVE if "INCONCLUSIVE" in outcomes else 0


def _times(seconds: float, summary: Summary) -> bytes:
    document = {"seconds_of_last_run": round(seconds, 3), "injections": summary.done}
    return (json.dumps(document, indent=1) + "\n").encode()


def _show(summary: Summary, verdicts: Sequence[Verdict]) -> None:
    golden = summary.golden_accuracy
    right = "" if golden is None else f"; fault-free accuracy {golden.value:.2%}"
    passes = summary.campaign["model"].get("passes") or []
    rewritten = f" after {', '.join(passes)}" if passes else ""
    fault = f"view {summary.view}, {summary.effect}, {summary.duration}"
    note(f"{summary.model}{rewritten}: {summary.population:,} bits in {summary.sites:,} sites, {fault}; {summary.samples:,} samples{right}")
    if summary.groups and summary.groups[0].rate is not None:
        columns = ("BER", "draws", "without fault", "flips", "accuracy", "interval", "least", "5 %", "critical", "DUE")
        table(columns, [_rate_row(group) for group in summary.groups], numbers=columns)
    elif summary.overall:
        rows = [(name, f"{one.value:.4%}", f"{one.low:.4%} to {one.high:.4%}", one.units) for name, one in summary.overall.items()]
        table(
            ("share of inferences", "estimate", f"{summary.overall['critical'].level:.0%} interval", "injections"),
            rows,
            numbers=("estimate", "injections"),
        )
    for title, cells in (("layer", summary.layers), ("bit", summary.bits)):
        worst = sorted((cell for cell in cells if cell.critical.value > 0), key=lambda cell: -cell.critical.value)[:_SHOWN]
        if worst:
            places = [
                (
                    cell.layer if title == "layer" else cell.bit,
                    f"{cell.critical.value:.3%}",
                    f"{cell.critical.low:.3%} to {cell.critical.high:.3%}",
                    cell.injections,
                )
                for cell in worst
            ]
            table((f"most critical {title}s", "critical", "interval", "injections"), places, numbers=("critical", "injections"))
    for sentence in summary.notes:
        note(sentence)
    for verdict in verdicts:
        note(f"{verdict.outcome}: {verdict.requirement}: {verdict.why}", bad=verdict.outcome != "PASS")


def _rate_row(group: Any) -> tuple[Any, ...]:
    accuracy = group.accuracy
    seen = (
        ("", "", "", "")
        if accuracy is None
        else (
            f"{accuracy.value:.2%}",
            f"{accuracy.low:.2%} to {accuracy.high:.2%}",
            f"{group.accuracy_min:.2%}",
            f"{group.accuracy_p5:.2%}",
        )
    )
    shares = (f"{group.shares['critical'].value:.3%}", f"{group.shares['due'].value:.3%}")
    return (f"{group.rate:g}", group.injections, group.empty, f"{group.flips:,}", *seen, *shares)
