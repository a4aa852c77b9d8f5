"""`summary.md`: a campaign on one page, for a CI system's job summary. Verdicts come first; under 60 kB whatever the campaign.

Every part has bytes of its own: a table stops before it is over them, and its last line says how many rows are missing. Names from a model
are put so that they are neither markup nor links nor mentions of people.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from effc.errors import counted
from effc.faultsim.gates import Verdict, short
from effc.faultsim.reports.definitions import LABELS, definitions
from effc.faultsim.reports.json_report import overall_outcome
from effc.faultsim.reports.texts import bare, interval, number, percent, visible, with_interval
from effc.faultsim.summary import Cell, FaultRow, GroupSummary, Summary

__all__ = ["MAX_BYTES", "markdown_report"]

MAX_BYTES = 60_000
_BYTES = {
    "verdicts": 14_000,
    "groups": 12_000,
    "overall": 3_000,
    "layers": 7_000,
    "bits": 7_000,
    "worst": 7_000,
    "notes": 4_000,
}  # of 60 kB
_SIGNS = {"PASS": "✅", "FAIL": "❌", "INCONCLUSIVE": "❔"}
_ORDER = ("FAIL", "INCONCLUSIVE", "PASS")
_WORST = 15  # faults shown
_LONGEST = 80  # characters of a name
_LONGEST_NOTE = 600
_TAME = re.compile(r"(?:[\w./:+@,()-]|[<>]=)+(?: (?:[\w./:+@,()-]|[<>]=)+)*", re.ASCII)
_PLAIN = re.compile(r"[A-Za-z0-9 ]|[^\x00-\x7f]", re.ASCII)
_SENTENCE = re.compile(  # numbers and the marks of sentences, which stay; then all other marks
    r"([0-9]+\.[0-9]+(?![\w.])|[.:;](?= |$)|[,%()'])|[!-/:-@\[-`{-~]", re.ASCII
)


def markdown_report(summary: Summary, verdicts: Sequence[Verdict]) -> bytes:
    """The page in UTF-8."""
    parts = [
        f"## Fault simulation of {_name(summary.model)}",
        *_verdicts(verdicts),
        *_campaign(summary),
        *_notes(summary.notes),
        *_groups(summary),
        *_overall(summary),
        *_cells("By layer", "layer", summary.layers, "layers"),
        *_cells("By bit", "bit", summary.bits, "bits"),
        *_worst(summary.worst),
        *_definitions(summary.classes),
    ]
    return ("\n\n".join(parts) + "\n").encode()


def _verdicts(verdicts: Sequence[Verdict]) -> list[str]:
    outcome = overall_outcome(verdicts)
    if outcome is None:
        return ["No requirement was given, so nothing was judged."]
    ranked = sorted(verdicts, key=lambda verdict: _ORDER.index(verdict.outcome))
    rows = [(f"{_SIGNS[one.outcome]} {one.outcome}", _name(str(one.requirement)), bare(one.estimate), _prose(one.why)) for one in ranked]
    return [f"**{_SIGNS[outcome]} {outcome}**", _table(("verdict", "requirement", "measured", "why"), rows, "verdicts")]


def _campaign(summary: Summary) -> list[str]:
    made = f"{summary.done:,} of {counted(summary.planned, 'injection')}"
    text = (
        f"{made} · {summary.duration} {_prose(summary.effect)} in {counted(summary.population, 'bit')} "
        f"of {counted(summary.sites, 'tensor')}, seen as {_name(summary.view)} · {counted(summary.samples, 'sample')}"
    )
    if summary.golden_accuracy is not None:
        text += f" · accuracy without faults {with_interval(summary.golden_accuracy)}"
    return [text] if summary.complete else ["**The campaign is not complete**, so no requirement can be decided.", text]


def _notes(notes: Sequence[str]) -> list[str]:
    lines = [f"- {_prose(note)}" for note in notes]
    return ["\n".join(_within(lines, "notes", "- … and {} more"))] if lines else []


def _groups(summary: Summary) -> list[str]:
    sweep = [group for group in summary.groups if group.rate is not None]
    if not sweep:
        return []
    header = ("bit error rate", "injections", "without a fault", "accuracy", "least", "5th percentile", "critical", "DUE")
    return ["### Accuracy against the bit error rate", _table(header, map(_group, sweep), "groups", ">")]


def _group(group: GroupSummary) -> tuple[str, ...]:
    return (
        short(group.rate or 0.0),
        f"{group.injections:,}",
        f"{group.empty:,}",
        with_interval(group.accuracy),
        percent(group.accuracy_min),
        percent(group.accuracy_p5),
        with_interval(group.shares.get("critical")),
        with_interval(group.shares.get("due")),
    )


def _overall(summary: Summary) -> list[str]:
    shares = summary.overall
    if not shares:
        return []
    rows = [(LABELS.get(name, _name(name)), percent(one.value), interval(one), _prose(one.method)) for name, one in shares.items()]
    return ["### What one fault does", _table(("inferences", "share", "interval", "method"), rows, "overall")]


def _cells(title: str, what: str, cells: Sequence[Cell], part: str) -> list[str]:
    if not cells:
        return []
    ranked = sorted(cells, key=lambda cell: -cell.critical.value)
    rows = (
        (_name(cell.layer) if cell.layer is not None else str(cell.bit), f"{cell.population:,}", f"{cell.injections:,}", _critical(cell))
        for cell in ranked
    )
    return [f"### {title}, most critical first", _table((what, "bits", "injections", "critical"), rows, part)]


def _critical(cell: Cell) -> str:
    return with_interval(cell.critical) if cell.injections else "no injection"


def _worst(worst: Sequence[FaultRow]) -> list[str]:
    if not worst:
        return []
    rows = ((_name(one.tensor or one.layer), _name(str(one.index)), str(one.bit), _values(one), _share(one)) for one in worst[:_WORST])
    return [
        f"### Worst faults{f', the first {_WORST} of {len(worst):,}' if len(worst) > _WORST else ''}",
        _table(("tensor", "position", "bit", "value", "critical"), rows, "worst"),
    ]


def _values(row: FaultRow) -> str:
    return f"{number(row.before)} → {number(row.after)}" if row.has_values else "–"


def _share(row: FaultRow) -> str:
    return percent(row.critical / row.inferences if row.inferences else None)


def _definitions(classes: bool) -> list[str]:
    lines = [f"- **{LABELS[name]}**: {text}" for name, text in definitions(classes).items()]
    return ["<details><summary>What the words mean</summary>", "\n".join(lines), "Bit 0 is the least significant one.", "</details>"]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], part: str, align: str = "") -> str:
    marks = [":--", *("--:" if align else "---" for _ in header[1:])]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    kept = _within(lines, part, f"| … and {{}} more rows, in report.json |{' |' * (len(header) - 1)}")
    return "\n".join([f"| {' | '.join(header)} |", f"|{'|'.join(marks)}|", *kept])


def _within(lines: Sequence[str], part: str, rest: str) -> list[str]:
    """The first lines that fit into the part's bytes; where some do not, `rest` with their number."""
    left = _BYTES[part]
    kept: list[str] = []
    for line in lines:
        left -= len(line.encode()) + 1
        if left < 0:
            return [*kept, rest.format(f"{len(lines) - len(kept):,}")]
        kept.append(line)
    return kept


def _name(text: str) -> str:
    """A name as code. An unusual one has all its marks as entities, because a table ends code at a bar and code ends at a backtick."""
    shown = visible(text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}…{text[-_LONGEST // 2 :]}")
    return f"`{shown}`" if _TAME.fullmatch(shown) else f"<code>{_entities(shown)}</code>"


def _prose(text: str) -> str:
    """A sentence that may quote a model: words, numbers and marks of sentences stay, what could be markup or a link becomes entities."""
    shown = visible(text if len(text) <= _LONGEST_NOTE else f"{text[:_LONGEST_NOTE]}…")
    return _SENTENCE.sub(lambda match: match[1] or _entities(match[0]), shown)


def _entities(text: str) -> str:
    return "".join(mark if _PLAIN.fullmatch(mark) else f"&#{ord(mark)};" for mark in text)
