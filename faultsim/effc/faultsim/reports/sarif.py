"""`report.sarif`: missed and undecided budgets, and the most critical layers, as SARIF 2.1.0 for code scanning.

A result is an alert: requirements that pass have none, so that an alert closes when its budget is met. FAIL is an `error`, INCONCLUSIVE a
`warning`, and a layer whose critical share is surely above the whole network's is a `note`. All stand at the model's file, in line 1: the
file is binary, and viewers want a line.

Fingerprints are made of the rule, the file and the requirement or layer, never of numbers: a budget that is missed by another margin is the
same alert. Code scanning tells alerts apart by `primaryLocationLineHash`, which it would compute from a source line that a model does not
have; so it is set, too.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from effc.faultsim.gates import Verdict
from effc.faultsim.reports.texts import bare, interval, percent, visible
from effc.faultsim.summary import Cell, Summary

__all__ = ["most_critical_layers", "sarif_report"]

_LAYERS = 5  # notes at most
_RULES = {
    "EFFC-SDC-BUDGET": ("SdcBudget", "Faults change predictions more often than the budget allows, or that could not be decided."),
    "EFFC-ACCURACY-BUDGET": ("AccuracyBudget", "Accuracy under faults is below its budget, or that could not be decided."),
    "EFFC-DUE-BUDGET": (
        "DueBudget",
        "Faults make outputs NaN or infinite more often than the budget allows, or that could not be decided.",
    ),
    "EFFC-MASKED-BUDGET": ("MaskedBudget", "The share of faults without any effect misses its budget, or that could not be decided."),
    "EFFC-CRITICAL-LAYER": (
        "CriticalLayer",
        "A layer whose faults are critical more often than the whole network's: a candidate for protection.",
    ),
}
_RULE_OF = {"accuracy": "EFFC-ACCURACY-BUDGET", "due": "EFFC-DUE-BUDGET", "masked": "EFFC-MASKED-BUDGET"}


def sarif_report(summary: Summary, verdicts: Sequence[Verdict]) -> bytes:
    """The document in UTF-8."""
    uri = _uri(summary.model)
    results = [_budget(verdict, uri) for verdict in verdicts if verdict.outcome != "PASS"]
    results += [_layer(cell, summary, uri) for cell in most_critical_layers(summary)]
    run = {
        "tool": {"driver": {"name": "effc faultsim", "rules": [_rule(name) for name in _RULES]}},
        "artifacts": [{"location": {"uri": uri}, "roles": ["analysisTarget"]}],
        "automationDetails": {"id": f"effc-faultsim/{uri}/"},
        "columnKind": "unicodeCodePoints",
        "results": results,
    }
    document = {"$schema": "https://json.schemastore.org/sarif-2.1.0.json", "version": "2.1.0", "runs": [run]}
    return (json.dumps(document, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def most_critical_layers(summary: Summary) -> list[Cell]:
    """Layers whose whole interval is above the network's critical share, worst first; at most five."""
    overall = summary.overall.get("critical")
    if overall is None:
        return []
    above = [cell for cell in summary.layers if cell.layer is not None and cell.critical.low > overall.value]
    return sorted(above, key=lambda cell: (-cell.critical.value, cell.layer))[:_LAYERS]


def _rule(name: str) -> dict[str, Any]:
    title, text = _RULES[name]
    level = "note" if name == "EFFC-CRITICAL-LAYER" else "error"
    return {"id": name, "name": title, "shortDescription": {"text": text}, "defaultConfiguration": {"level": level}}


def _budget(verdict: Verdict, uri: str) -> dict[str, Any]:
    requirement = verdict.requirement
    text = f"{verdict.outcome}: {requirement}; measured {bare(verdict.estimate)}: {visible(verdict.why)}."
    level = "error" if verdict.outcome == "FAIL" else "warning"
    return _result(_RULE_OF.get(requirement.metric, "EFFC-SDC-BUDGET"), level, text, uri, str(requirement))


def _layer(cell: Cell, summary: Summary, uri: str) -> dict[str, Any]:
    name = cell.layer or ""
    share = f"{percent(cell.critical.value)} of the inferences with a fault in it are critical ({interval(cell.critical)})"
    text = f"Layer {visible(name)}: {share}, against {percent(summary.overall['critical'].value)} over the whole network."
    result = _result("EFFC-CRITICAL-LAYER", "note", text, uri, name)
    result["locations"][0]["logicalLocations"] = [{"fullyQualifiedName": visible(name), "kind": "module"}]
    return result


def _result(rule: str, level: str, text: str, uri: str, identity: str) -> dict[str, Any]:
    digest = hashlib.sha256("\0".join((rule, uri, identity)).encode("utf-8", "surrogatepass")).hexdigest()
    return {
        "ruleId": rule,
        "ruleIndex": list(_RULES).index(rule),
        "level": level,
        "message": {"text": _message(text)},
        "locations": [{"physicalLocation": {"artifactLocation": {"uri": uri, "index": 0}, "region": {"startLine": 1}}}],
        "partialFingerprints": {"effcFaultsim/v1": digest, "primaryLocationLineHash": f"{digest[:16]}:1"},
    }


def _message(text: str) -> str:
    """`[x](y)` would be a link and braces a placeholder (SARIF 2.1.0, 3.11.5 and 3.11.6): a layer's name makes neither."""
    return text.replace("](", "] (").replace("{", "{{").replace("}", "}}")


def _uri(model: str) -> str:
    """The model as a relative reference: of a path that leaves the folder or starts at the root, only the last part."""
    path = posixpath.normpath(visible(model))
    if path.startswith(("/", "..")):
        path = posixpath.basename(path)
    return quote(path) if path not in ("", ".", "..") else "model"
