"""The measured parts of docs/activation-sparsity.md, from full runs of `lm_sparsity` and `relu_sparsity`.

Each benchmark has its own marks in the page, `<!-- NAME:begin -->` and `<!-- NAME:end -->`. `--from FOLDER` runs nothing: it takes what
the scripts printed with `--json` into `FOLDER/NAME.json`. The exit status is 1 when a claim was missed, and the page says so then.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import DATA_HELP, REPOSITORY
from benchmarks.results_page import section

__all__ = ["BENCHMARKS", "PAGE", "main", "replaced", "text"]

BENCHMARKS = ("lm_sparsity", "relu_sparsity")
PAGE = REPOSITORY / "docs" / "activation-sparsity.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks and rewrite the page; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=DATA_HELP, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", type=Path, dest="folder", help="a folder with the JSON of each script, as NAME.json")
    options = parser.parse_args(arguments)
    results = {name: _run(name) if options.folder is None else _read(options.folder / f"{name}.json") for name in BENCHMARKS}
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


def replaced(page: str, name: str, content: str) -> str:
    """The page with `content` between a benchmark's marks. Raises ValueError unless each occurs once, in order."""
    begin, end = (f"<!-- {name}:{which} -->" for which in ("begin", "end"))
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        raise ValueError(f"the page needs {begin} and then {end}, each once")
    return f"{page[: page.index(begin)]}{begin}\n{content}\n{page[page.index(end) :]}"


def _read(path: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(path.read_text())
    return result


def _run(name: str) -> dict[str, Any]:
    print(f"benchmarks.{name} ...", file=sys.stderr)
    command = [sys.executable, "-m", f"benchmarks.{name}", "--json"]
    done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=False)
    if not done.stdout:
        raise SystemExit(f"benchmarks.{name} ended with code {done.returncode} and no result; the page is as it was")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


if __name__ == "__main__":
    sys.exit(main())
