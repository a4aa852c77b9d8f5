"""`report.json`: everything a campaign found, for programs. Its form is published beside this file as `report.schema.json`.

The bytes are canonical: keys sorted, one form of every number. JSON has no NaN and no infinity; they are the strings `NaN`, `Infinity` and
`-Infinity`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from importlib import resources
from typing import Any

from effc.faultsim.gates import Verdict
from effc.faultsim.reports.definitions import definitions
from effc.faultsim.summary import Summary

__all__ = ["SCHEMA", "SCHEMA_VERSION", "json_report", "json_schema", "overall_outcome"]

SCHEMA = "effc.faultsim.report"
SCHEMA_VERSION = 1  # rises when a field changes its meaning or goes; new fields alone do not raise it


def json_report(summary: Summary, verdicts: Sequence[Verdict]) -> bytes:
    """The document in UTF-8, ending in a newline."""
    document = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "outcome": overall_outcome(verdicts),
        "verdicts": [_verdict(verdict) for verdict in verdicts],
        "definitions": definitions(summary.classes),
        **_plain(summary),
    }
    return (json.dumps(document, sort_keys=True, indent=1, allow_nan=False) + "\n").encode()


def json_schema() -> dict[str, Any]:
    """The published JSON schema (draft 2020-12) of the document."""
    text = resources.files("effc.faultsim.reports").joinpath("report.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def overall_outcome(verdicts: Sequence[Verdict]) -> str | None:
    """The worst outcome; None where nothing was required."""
    outcomes = {verdict.outcome for verdict in verdicts}
    return next((outcome for outcome in ("FAIL", "INCONCLUSIVE", "PASS") if outcome in outcomes), None)


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {**_plain(verdict), "requirement": str(verdict.requirement), **_plain(verdict.requirement)}


def _plain(value: Any) -> Any:
    """Dataclasses, mappings and tuples as JSON has them."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
