"""The measured parts of docs/cross-targets.md, from full runs of `benchmarks.cross_targets`.

`--from FILE` (as often as wanted) runs nothing: it takes what the benchmark printed with `--json`. The exit status is 1 when a claim was
missed, and the page says so then.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cross_targets import EXACTNESS, INSTRUCTIONS
from benchmarks.documents import printed, replaced
from benchmarks.harness import DATA_HELP, REPOSITORY, markdown

__all__ = ["PAGE", "main", "parts"]

PAGE = REPOSITORY / "docs" / "cross-targets.md"
TABLES = {"exactness": EXACTNESS, "instructions": INSTRUCTIONS}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and rewrite the page; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=DATA_HELP, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", type=Path, dest="files", action="append", help="the benchmark's JSON")
    options = parser.parse_args(arguments)
    results = [json.loads(file.read_text()) for file in options.files or ()] or [printed("cross_targets")]
    page = PAGE.read_text()
    for name, content in parts(results).items():
        page = replaced(page, name, content)
    PAGE.write_text(page)
    return 0 if all(claim["holds"] for result in results for claim in result["claims"]) else 1


def parts(results: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The Markdown for each pair of marks. Raises ValueError for a quick run."""
    if any(result["machine"]["quick"] for result in results):
        raise ValueError("this was a quick run: the page holds full ones")
    rows = [row for result in results for row in result["rows"]]
    claims = [claim for result in results for claim in result["claims"]]
    found = {}
    for name, table in TABLES.items():
        found[name] = markdown([{key: value for key, value in row.items() if key != "table"} for row in rows if row.get("table") == table])
    failed = [claim for claim in claims if not claim["holds"]]
    lines = [f"{len(claims) - len(failed)} of {len(claims)} claims hold."]
    for one in failed:
        value = "not measured" if one["value"] is None else f"{one['value']:.3g}"
        lines.append(f"Missed: {one['name']}: {value}, needed {one['sense']} {one['bar']:g}.")
    lines += [f"{row['model']}: {row.get('failed') or 'skipped, ' + row['skipped']}." for row in rows if "table" not in row]
    return found | {"claims": "\n\n".join(lines)}


if __name__ == "__main__":
    sys.exit(main())
