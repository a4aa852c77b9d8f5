"""Reports of a campaign, for people and for CI: plain data in, bytes out, and the same bytes for the same data."""

from effc.faultsim.reports.csv_report import ListedFault, csv_chunks, read_faults
from effc.faultsim.reports.json_report import json_report, json_schema
from effc.faultsim.reports.junit import junit_report
from effc.faultsim.reports.markdown import markdown_report
from effc.faultsim.reports.page import html_report
from effc.faultsim.reports.sarif import sarif_report
from effc.faultsim.reports.writing import write_reports

__all__ = [
    "ListedFault",
    "csv_chunks",
    "html_report",
    "json_report",
    "json_schema",
    "junit_report",
    "markdown_report",
    "read_faults",
    "sarif_report",
    "write_reports",
]
