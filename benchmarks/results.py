"""All benchmarks in full; the claims that matter most in the README, everything in docs/results.md.

Each benchmark runs in a process of its own. The documents change only when all of them have run. The exit status is 1 when a claim was
missed, and the README says so then. `--from FOLDER` runs nothing: it takes what the scripts printed with `--json` into `FOLDER/NAME.json`;
`--only NAME ...` is about some of them, and leaves what the documents say of the others.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.documents import between, printed, replaced
from benchmarks.harness import DATA_HELP, REPOSITORY
from benchmarks.results_page import BENCHMARKS, full, short, with_sections, with_short

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks and rewrite the documents; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=DATA_HELP, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="quick runs; the documents stay as they are")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--threads", type=int, help="processors for each engine (default: all)")
    parser.add_argument("--from", type=Path, dest="folder", help="a folder with the JSON of each script, as NAME.json")
    parser.add_argument(
        "--only", nargs="+", choices=BENCHMARKS, metavar="NAME", help="these; the documents keep what they say of the others"
    )
    options = parser.parse_args(arguments)
    names = options.only or list(BENCHMARKS)
    if options.folder is not None:
        results = {name: json.loads((options.folder / f"{name}.json").read_text()) for name in names}
    else:
        given = [*(["--quick"] if options.quick else []), *([] if options.threads is None else ["--threads", str(options.threads)])]
        results = {name: printed(name, *given) for name in names}
    claims = [claim for result in results.values() for claim in result["claims"]]
    joined = {
        "machine": {name: result["machine"] for name, result in results.items()},
        "rows": [{"benchmark": name, **row} for name, result in results.items() for row in result["rows"]],
        "claims": claims,
    }
    print(json.dumps(joined, indent=1) if options.json else full(results))
    if not options.quick:
        for name, whole, some in (("README.md", short, with_short), ("docs/results.md", full, with_sections)):
            document = REPOSITORY / name
            text = document.read_text()
            content = some(between(text, "results"), results) if options.only else whole(results)
            document.write_text(replaced(text, "results", content))
    return 0 if all(claim["holds"] for claim in claims) else 1


if __name__ == "__main__":
    sys.exit(main())
