"""The measured parts of docs/embedded.md, from a full run of `benchmarks.embedded`.

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

from benchmarks.documents import printed, replaced
from benchmarks.embedded import EXACTNESS, INSTRUCTIONS, MEMORY, PUBLISHED, SELF_TESTS
from benchmarks.harness import DATA_HELP, REPOSITORY, markdown

__all__ = ["PAGE", "main", "parts"]

PAGE = REPOSITORY / "docs" / "embedded.md"
TABLES = {"memory": MEMORY, "published": PUBLISHED, "exactness": EXACTNESS, "self-tests": SELF_TESTS, "instructions": INSTRUCTIONS}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and rewrite the page; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=DATA_HELP, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", type=Path, dest="file", help="the benchmark's JSON")
    options = parser.parse_args(arguments)
    result = printed("embedded") if options.file is None else json.loads(options.file.read_text())
    page = PAGE.read_text()
    for name, content in parts(result).items():
        page = replaced(page, name, content)
    PAGE.write_text(page)
    return 0 if all(claim["holds"] for claim in result["claims"]) else 1


def parts(result: Mapping[str, Any]) -> dict[str, str]:
    """The Markdown for each pair of marks. Raises ValueError for a quick run."""
    if result["machine"]["quick"]:
        raise ValueError("this was a quick run: the page holds full ones")
    found = {}
    for name, table in TABLES.items():
        rows = [{key: value for key, value in row.items() if key != "table"} for row in result["rows"] if row.get("table") == table]
        found[name] = markdown(rows)
    failed = [claim for claim in result["claims"] if not claim["holds"]]
    lines = [f"{len(result['claims']) - len(failed)} of {len(result['claims'])} claims hold."]
    lines += [f"Missed: {one['name']}: {one['value']}, needed {one['sense']} {one['bar']:g}." for one in failed]
    lines += [f"{row['model']}: {row.get('failed') or 'skipped, ' + row['skipped']}." for row in result["rows"] if "table" not in row]
    return found | {"claims": "\n\n".join(lines)}


if __name__ == "__main__":
    sys.exit(main())
