"""The measured parts of docs/accelerators.md and its picture, from a full run of `benchmarks.accelerators`.

Each table has its own marks in the page, `<!-- NAME:begin -->` and `<!-- NAME:end -->`. `--from FILE` runs nothing: it takes what the
benchmark printed with `--json`. The exit status is 1 when a claim was missed, and the page says so then.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import accelerator_cycles, accelerator_networks
from benchmarks.accelerators_picture import draw
from benchmarks.documents import printed, replaced
from benchmarks.harness import DATA_HELP, REPOSITORY, markdown

__all__ = ["PAGE", "main", "parts"]

PAGE = REPOSITORY / "docs" / "accelerators.md"
PICTURE = REPOSITORY / "docs" / "accelerators.svg"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and rewrite the page; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=DATA_HELP, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", type=Path, dest="file", help="the benchmark's JSON")
    options = parser.parse_args(arguments)
    result = printed("accelerators") if options.file is None else json.loads(options.file.read_text())
    page = PAGE.read_text()
    for name, content in parts(result).items():
        page = replaced(page, name, content)
    PICTURE.write_text(draw(_rows(result, accelerator_networks.TABLE)))
    PAGE.write_text(page)
    return 0 if all(claim["holds"] for claim in result["claims"]) else 1


def parts(result: Mapping[str, Any]) -> dict[str, str]:
    """The Markdown for each pair of marks. Raises ValueError for a quick run."""
    if result["machine"]["quick"]:
        raise ValueError("this was a quick run: the page holds full ones")
    networks = _rows(result, accelerator_networks.TABLE)
    failed = [claim for claim in result["claims"] if not claim["holds"]]
    lines = [f"{len(result['claims']) - len(failed)} of {len(result['claims'])} claims hold."]
    lines += [f"Missed: {one['name']}: {one['value']}, needed {one['sense']} {one['bar']:g}." for one in failed]
    lines += [f"{row['model']}: skipped, {row['skipped']}." for row in result["rows"] if "skipped" in row]
    cycles = markdown(_summed(_rows(result, accelerator_cycles.TABLE)))
    return {"networks": markdown(networks), "cycles": cycles, "claims": "\n\n".join(lines)}


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
