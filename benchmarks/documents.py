"""Documents that hold what benchmarks printed, between marks of their own: `<!-- NAME:begin -->` and `<!-- NAME:end -->`."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from benchmarks.harness import REPOSITORY

__all__ = ["between", "printed", "replaced"]


def printed(name: str, *options: str) -> dict[str, Any]:
    """What `python -m benchmarks.NAME --json` prints, run in a process of its own. Raises SystemExit where that is nothing."""
    print(f"benchmarks.{name} ...", file=sys.stderr)
    command = [sys.executable, "-m", f"benchmarks.{name}", "--json", *options]
    done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=False)
    if not done.stdout:
        raise SystemExit(f"benchmarks.{name} ended with code {done.returncode} and no result; the documents are as they were")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def between(document: str, name: str) -> str:
    """What stands between the marks of a name. Raises ValueError unless each occurs once, in order."""
    begin, end = _marks(document, name)
    return document[document.index(begin) + len(begin) : document.index(end)]


def replaced(document: str, name: str, content: str) -> str:
    """The document with `content` between the marks of a name. Raises ValueError unless each occurs once, in order."""
    begin, end = _marks(document, name)
    return f"{document[: document.index(begin)]}{begin}\n{content}\n{document[document.index(end) :]}"


def _marks(document: str, name: str) -> tuple[str, str]:
    begin, end = (f"<!-- {name}:{which} -->" for which in ("begin", "end"))
    if document.count(begin) != 1 or document.count(end) != 1 or document.index(begin) > document.index(end):
        raise ValueError(f"the document needs {begin} and then {end}, each once")
    return begin, end
