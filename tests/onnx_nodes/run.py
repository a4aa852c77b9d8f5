"""Run onnx's node tests and print the counts.

    python tests/onnx_nodes/run.py                          # Program and TVM, all core cases
    python tests/onnx_nodes/run.py --engine program --only softmax
    python tests/onnx_nodes/run.py --declare                # rewrite unsupported.toml from what is refused

Cases run in worker processes, so that one that crashes is one wrong case.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.onnx_nodes.cases import collect  # noqa: E402 - the root must be on the path first

DECLARED = Path(__file__).with_name("unsupported.toml")


def _work(engine: str, names: list[str]) -> None:
    """A worker: one JSON line a case."""
    import warnings

    import torch

    from tests.onnx_nodes.engines import verdict

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    cases = {case.name: case for case in collect()[0]}
    for name in names:
        print(json.dumps([name, *verdict(cases[name], engine)]), flush=True)


def _chunk(engine: str, names: list[str], patience: float) -> dict[str, tuple[str, str]]:
    """The verdicts of some cases; a worker that dies or hangs is started anew behind the case that did it."""
    results: dict[str, tuple[str, str]] = {}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    while len(results) < len(names):
        rest = names[len(results) :]
        command = [sys.executable, __file__, "--worker", engine]
        try:
            done = subprocess.run(command, input="\n".join(rest), capture_output=True, text=True, timeout=patience, env=environment)
            text, how = done.stdout, f"the process ended with {done.returncode}: {done.stderr.strip()[-200:]}"
        except subprocess.TimeoutExpired as error:
            text, how = (error.stdout or b"").decode(), "took too long"
        for line in text.splitlines():
            if line.startswith('["test_'):
                name, outcome, why = json.loads(line)
                results[name] = (outcome, why)
        if len(results) < len(names):
            results[names[len(results)]] = ("wrong", how)
    return results


def run(engine: str, names: list[str], jobs: int, size: int = 150) -> dict[str, tuple[str, str]]:
    chunks = [names[start : start + size] for start in range(0, len(names), size)]
    results: dict[str, tuple[str, str]] = {}
    with ThreadPoolExecutor(jobs) as pool:
        for found in pool.map(lambda chunk: _chunk(engine, chunk, 60.0 + 10.0 * len(chunk)), chunks):
            results.update(found)
            print(f"\r{engine}: {len(results)} of {len(names)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return results


def show(engine: str, results: dict[str, tuple[str, str]]) -> None:
    expanded = {name for name in results if "_expanded" in name}
    for title, chosen in (("core", results.keys() - expanded), ("_expanded", expanded), ("together", results.keys())):
        counts = collections.Counter(results[name][0] for name in chosen)
        total = max(sum(counts.values()), 1)
        print(
            f"{engine:12} {title:10} {sum(counts.values()):5} cases: {counts['pass']:5} passed ({counts['pass'] / total:.1%}), "
            f"{counts['refused']:4} refused, {counts['wrong']:4} wrong"
        )
    for name, (outcome, why) in sorted(results.items()):
        if outcome == "wrong":
            print(f"  WRONG {name}: {why}")


def declared() -> dict[str, dict[str, str]]:
    """Why each case is refused, by engine and case."""
    if not DECLARED.exists():
        return {}
    entries = tomllib.loads(DECLARED.read_text())
    return {engine: {name: row["why"] for row in rows for name in row["cases"]} for engine, rows in entries.items()}


def declare(results: dict[str, dict[str, tuple[str, str]]]) -> None:
    """Write unsupported.toml: per engine, the refused cases by reason. Engines that did not run keep their entries."""
    entries = declared()
    for engine, found in results.items():
        entries[engine] = {name: why[:300] for name, (outcome, why) in found.items() if outcome == "refused"}
    lines = ["# What is refused, by engine and reason. Written by `run.py --declare`; tests hold it against what really is refused.", ""]
    for engine, refused in sorted(entries.items()):
        reasons: dict[str, list[str]] = collections.defaultdict(list)
        for name, why in refused.items():
            reasons[why].append(name)
        for why, names in sorted(reasons.items()):
            rows = [f"  {json.dumps(name)}," for name in sorted(names)]
            lines += [f"[[{engine}]]", f"why = {json.dumps(why)}", "cases = [", *rows, "]", ""]
    DECLARED.write_text("\n".join(lines))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", action="append", choices=("interpreter", "program", "tvm"))
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--declare", action="store_true")
    parser.add_argument("--refused", action="store_true", help="list the reasons of refusals")
    parser.add_argument("--json", type=Path, help="write every verdict to this file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        _work(options.worker, sys.stdin.read().split())
        return 0
    cases, others = collect()
    names = [case.name for case in cases if options.only in case.name]
    print(f"{len(names)} core cases ({sum('_expanded' in name for name in names)} of them _expanded), {others} out of scope")
    results: dict[str, Any] = {}
    for engine in options.engine or ["program", "tvm"]:
        results[engine] = run(engine, names, options.jobs)
        show(engine, results[engine])
        if options.refused:
            for why, count in collections.Counter(why for outcome, why in results[engine].values() if outcome == "refused").most_common():
                print(f"  {count:4} {why}")
    if options.declare:
        declare(results)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    return int(any(outcome == "wrong" for found in results.values() for outcome, _ in found.values()))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
