"""The measured parts of docs/activation-sparsity.md, from full runs of `lm_sparsity` and `relu_sparsity`.

Each benchmark has its own marks in the page, `<!-- NAME:begin -->` and `<!-- NAME:end -->`. `--from FOLDER` runs nothing: it takes what
the scripts printed with `--json` into `FOLDER/NAME.json`. The exit status is 1 when a claim was missed, and the page says so then.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.documents import printed, replaced
from benchmarks.harness import DATA_HELP, REPOSITORY
from benchmarks.results_page import section

__all__ = ["BENCHMARKS", "PAGE", "main", "text"]

BENCHMARKS = ("lm_sparsity", "relu_sparsity")
PAGE = REPOSITORY / "docs" / "activation-sparsity.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks and rewrite the page; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=DATA_HELP, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", type=Path, dest="folder", help="a folder with the JSON of each script, as NAME.json")
    options = parser.parse_args(arguments)
    results = {name: printed(name) if options.folder is None else _read(options.folder / f"{name}.json") for name in BENCHMARKS}
    page = PAGE.read_text()
    for name, result in results.items():
        page = replaced(page, name, text(name, result))
    PAGE.write_text(page)
    return 0 if all(claim["holds"] for result in results.values() for claim in result["claims"]) else 1


def text(name: str, result: Mapping[str, Any]) -> str:
    """One benchmark's tables and claims in Markdown, and where they were measured. Raises ValueError for a quick run."""
    facts = result["machine"]
    if facts["quick"]:
        raise ValueError(f"{name} was a quick run: the page holds full ones")
    versions = ", ".join(f"{package} {version}" for package, version in facts["versions"].items() if version)
    where = f"{facts['processor']}, {facts['threads']} of {facts['processors']} processors, {facts['system']}; {versions}"
    return f"{section(f'**`python -m benchmarks.{name}`**', result)}\n\nMeasured on: {where}."


def _read(path: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(path.read_text())
    return result


if __name__ == "__main__":
    sys.exit(main())
