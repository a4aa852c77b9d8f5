"""All reports of a campaign into one folder: each file is the old one or the new one, never a part, whatever is killed when."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

from effc.errors import OutputError
from effc.faultsim.gates import Verdict
from effc.faultsim.reports.csv_report import csv_chunks
from effc.faultsim.reports.json_report import json_report
from effc.faultsim.reports.junit import junit_report
from effc.faultsim.reports.markdown import markdown_report
from effc.faultsim.reports.page import html_report
from effc.faultsim.reports.sarif import sarif_report
from effc.faultsim.summary import FaultRow, Summary
from effc.faultsim.whole_files import remove_leftovers, write_all

__all__ = ["write_reports"]


def write_reports(folder: Path, summary: Summary, verdicts: Sequence[Verdict], fault_rows: Iterable[FaultRow]) -> list[str]:
    """Write `report.json`, `report.html`, `summary.md`, `junit.xml`, `report.sarif`, and `faults.csv` where there are rows.

    Args:
        folder: made where it is missing; other files in it stay.
        fault_rows: of a campaign of single faults, in the order of their injections; empty for others. Written as they come: they may be
            more than memory holds.

    Returns:
        Names of the files written.

    Raises:
        OutputError: the folder or a file cannot be written. Then no report has been replaced, unless the system failed while renaming.
    """
    files: dict[str, Iterable[bytes]] = {
        "report.json": [json_report(summary, verdicts)],
        "report.html": [html_report(summary, verdicts)],
        "summary.md": [markdown_report(summary, verdicts)],
        "junit.xml": [junit_report(summary, verdicts)],
        "report.sarif": [sarif_report(summary, verdicts)],
    }
    rows = iter(fault_rows)
    first = next(rows, None)
    if first is not None:
        files["faults.csv"] = csv_chunks(chain([first], rows))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_all({folder / name: chunks for name, chunks in files.items()})
    except OSError as error:
        raise OutputError(f"the reports cannot be written to {folder}: {error.strerror}; choose another -o, or make room") from error
    remove_leftovers(folder)
    return list(files)
