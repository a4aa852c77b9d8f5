"""ONNX's own node tests (`onnx.backend.test`): how many cases effc computes rightly, refuses with a reason, or gets wrong.

Cases, runner and the declared list of what is not supported are in tests/onnx_nodes. `program` executes the imported program with torch,
`tvm` the compiled code. `_expanded` cases repeat others with an operator spelled out, and are counted apart. `refuse all` is what a program
that supports nothing would reach.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.harness import REPOSITORY, Claim, Options, Outcome, main
from effc.errors import InternalError

__all__ = ["measure", "summarise"]

RUNNER = REPOSITORY / "tests" / "onnx_nodes" / "run.py"
BARS = {"program": 0.75, "tvm": 0.65}
QUICK = "softmax"  # cases whose name holds this

Verdicts = Mapping[str, Mapping[str, Sequence[str]]]  # engine -> case -> outcome, reason


def measure(options: Options) -> Outcome:
    """All core cases through both engines; with `quick` a few of them, and no claim about shares."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "verdicts.json")
        command = [sys.executable, str(RUNNER), "--json", str(result), "--jobs", str(options.threads)]
        done = subprocess.run([*command, *(("--only", QUICK) if options.quick else ())], stdout=subprocess.DEVNULL, check=False)
        if not result.is_file():
            raise InternalError(f"{RUNNER} ended with code {done.returncode} and wrote no verdicts")
        verdicts = json.loads(result.read_text())
    return summarise(verdicts, shares=not options.quick)


def summarise(verdicts: Verdicts, *, shares: bool) -> Outcome:
    """Counts by engine, and the claims: `shares` of cases passed, and none wrong."""
    outcome = Outcome()
    for engine, cases in verdicts.items():
        for kind in ("core", "_expanded"):
            counts = Counter(found[0] for name, found in cases.items() if ("_expanded" in name) == (kind == "_expanded"))
            outcome.rows.append(_row(engine, kind, counts))
            if shares and kind == "core":
                outcome.claims.append(
                    Claim(f"ONNX node tests passed, {engine}", outcome.rows[-1]["share"], BARS.get(engine, 0.0), "at least")
                )
        wrong = sum(found[0] == "wrong" for found in cases.values())
        outcome.claims.append(Claim(f"ONNX node tests wrong, {engine}", wrong, 0, "at most"))
    total = max((len(cases) for cases in verdicts.values()), default=0)
    outcome.rows.append(_row("refuse all", "all", Counter(refused=total)))
    return outcome


def _row(engine: str, kind: str, counts: Counter[str]) -> dict[str, str | int | float]:
    total = sum(counts.values())
    numbers = {"cases": total, "passed": counts["pass"], "refused": counts["refused"], "wrong": counts["wrong"]}
    return {"engine": engine, "kind": kind, **numbers, "share": counts["pass"] / total if total else 0.0}


if __name__ == "__main__":
    sys.exit(main(measure))
