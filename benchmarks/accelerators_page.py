"""What `benchmarks.accelerators` measured, in docs/accelerators.md, its picture, and docs/fault-simulation.md.

Each table has its own marks, `<!-- NAME:begin -->` and `<!-- NAME:end -->`. `--from FILE ...` runs nothing: it takes what the benchmark
printed with `--json`, all parts in one file or one part a file. The exit status is 1 when a claim was missed, and the page says so then.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import accelerator_cycles, accelerator_faults, accelerator_networks, accelerator_patterns
from benchmarks.accelerators import PARTS
from benchmarks.accelerators_picture import draw
from benchmarks.documents import printed, replaced
from benchmarks.harness import DATA_HELP, REPOSITORY, markdown

__all__ = ["PAGES", "joined", "main", "parts"]

PAGES = {
    "accelerators.md": ("networks", "prices", "cycles", "functional", "patterns", "claims"),
    "fault-simulation.md": ("stuck", "stuck-bits"),
}
"""Documents, and the marks in each."""

DOCS = REPOSITORY / "docs"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and rewrite the pages; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=DATA_HELP, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", type=Path, dest="files", nargs="+", metavar="FILE", help="the benchmark's JSON")
    options = parser.parse_args(arguments)
    if options.files is None:
        result = joined([printed("accelerators")])
    else:
        result = joined([json.loads(file.read_text()) for file in options.files])
    content = parts(result)
    pages = {name: (DOCS / name).read_text() for name in PAGES}
    for name, marks in PAGES.items():
        for mark in marks:
            pages[name] = replaced(pages[name], mark, content[mark])
    for name, page in pages.items():
        (DOCS / name).write_text(page)
    (DOCS / "accelerators.svg").write_text(draw(_rows(result, accelerator_networks.TABLE)))
    return 0 if all(claim["holds"] for claim in result["claims"]) else 1


def joined(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Runs of parts as one. Raises ValueError for quick runs, and unless each claim of a full run is there once."""
    if any(result["machine"]["quick"] for result in results):
        raise ValueError("this was a quick run: the page holds full ones")
    rows = [row for result in results for row in result["rows"]]
    claims = [claim for result in results for claim in result["claims"]]
    needed = sum(part.claims for part in PARTS.values())
    if len({claim["name"] for claim in claims}) != len(claims):
        raise ValueError("a claim occurs twice: give each part once")
    if len(claims) != needed and not any("skipped" in row for row in rows):
        raise ValueError(f"a full run makes {needed} claims, here are {len(claims)}: give all parts ({', '.join(PARTS)})")
    return {"rows": rows, "claims": claims}


def parts(result: Mapping[str, Any]) -> dict[str, str]:
    """The Markdown for each pair of marks."""
    failed = [claim for claim in result["claims"] if not claim["holds"]]
    lines = [f"{len(result['claims']) - len(failed)} of {len(result['claims'])} claims hold."]
    lines += [f"Missed: {one['name']}: {one['value']}, needed {one['sense']} {one['bar']:g}." for one in failed]
    lines += [f"{row['model']}: skipped, {row['skipped']}." for row in result["rows"] if "skipped" in row]
    claims = [
        {"claim": one["name"], "value": one["value"], "needed": f"{one['sense']} {one['bar']:g}", "holds": one["holds"]}
        for one in result["claims"]
    ]
    bits = [(row["table"], row) for row in result["rows"] if str(row.get("table")).startswith(accelerator_faults.BY_BIT)]
    return {
        "networks": markdown(_rows(result, accelerator_networks.TABLE)),
        "prices": markdown(_rows(result, accelerator_networks.PRICES)),
        "cycles": markdown(_summed(_rows(result, accelerator_cycles.TABLE))),
        "functional": markdown(_rows(result, accelerator_faults.FUNCTIONAL)),
        "patterns": markdown(_rows(result, accelerator_patterns.TABLE)),
        "stuck": markdown(_rows(result, accelerator_faults.STUCK_MULTIPLIERS)),
        "stuck-bits": "\n\n".join(f"{title}:\n\n{markdown(_rows(result, title))}" for title in dict.fromkeys(name for name, _ in bits)),
        "claims": "\n\n".join([*lines, markdown(claims)]),
    }


def _rows(result: Mapping[str, Any], table: str) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "table"} for row in result["rows"] if row.get("table") == table]


def _summed(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for each array and dataflow: all layers together, and the one that is furthest apart."""
    found = []
    for key in dict.fromkeys((row["array"], row["dataflow"]) for row in rows):
        members = [row for row in rows if (row["array"], row["dataflow"]) == key]
        ours, theirs = (sum(row["layers"] * row[who] for row in members) for who in ("effc", "SCALE-Sim"))
        worst = max((abs(row["effc"] / row["SCALE-Sim"] - 1), row["layer"]) for row in members)
        counts = {"array": key[0], "dataflow": key[1], "layers": sum(row["layers"] for row in members)}
        found.append({**counts, "effc, cycles": ours, "SCALE-Sim, cycles": theirs, "furthest apart": f"{worst[0]:.4%}, {worst[1]}"})
    return found


if __name__ == "__main__":
    sys.exit(main())
