"""All benchmarks in full, and the README's results between `<!-- results:begin -->` and `<!-- results:end -->`.

Each benchmark runs in a process of its own. The README changes only when all of them have run. The exit status is 1 when a claim was
missed, and the README says so then. `--from FOLDER` runs nothing: it takes what the scripts printed with `--json` into `FOLDER/NAME.json`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import ap, dense_cpu, embedded, lm_sparsity, proact, relu_sparsity, resilience, stream
from benchmarks.harness import DATA_HELP, REPOSITORY, TIMES_EFFC, markdown

__all__ = ["BENCHMARKS", "main", "replaced", "section", "text"]

BENCHMARKS = {
    "latency": "Latency of one call, batch 1",
    "dense_cpu": "Dense float32 networks beside their peers",
    "skip_gemv": "One row times a large matrix, zeros skipped",
    "decode": "One token through a Llama-shaped stack, zeros skipped",
    "generation": "A language model that decodes token by token",
    "lm_sparsity": "Quality of a language model with sparse activations",
    "relu_sparsity": "Zeros in networks with ReLUs",
    "faultsim": "Speed of fault simulation, and time to an answer",
    "resilience": "What bit flips do to a trained network",
    "proact": "Bounded activations under bit flips",
    "ap": "Pruning with Activating-while-Pruning",
    "stream": "Video: computing only what changed",
    "embedded": "C for microcontrollers: memory, code, exactness",
    "accuracy": "Nearness to the source model",
    "onnx_nodes": "ONNX's own node tests",
}
SHORT = {
    "dense_cpu": dense_cpu.SHORT,
    "lm_sparsity": lm_sparsity.SHORT,
    "relu_sparsity": relu_sparsity.SHORT,
    "resilience": resilience.SHORT,
    "proact": proact.SHORT,
    "ap": ap.SHORT,
    "stream": stream.SHORT,
    "embedded": embedded.SHORT,
}  # the tables of a benchmark that the README shows, where it does not show all
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks and rewrite the README; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=DATA_HELP, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="quick runs; the README stays as it is")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--threads", type=int, help="processors for each engine (default: all)")
    parser.add_argument("--from", type=Path, dest="folder", help="a folder with the JSON of each script, as NAME.json")
    options = parser.parse_args(arguments)
    if options.folder is not None:
        results = {name: json.loads((options.folder / f"{name}.json").read_text()) for name in BENCHMARKS}
    else:
        results = {name: _run(name, options.quick, options.threads) for name in BENCHMARKS}
    claims = [claim for result in results.values() for claim in result["claims"]]
    joined = {
        "machine": {name: result["machine"] for name, result in results.items()},
        "rows": [{"benchmark": name, **row} for name, result in results.items() for row in result["rows"]],
        "claims": claims,
    }
    print(json.dumps(joined, indent=1) if options.json else text(results))
    if not options.quick:
        readme = REPOSITORY / "README.md"
        readme.write_text(replaced(readme.read_text(), text(results)))
    return 0 if all(claim["holds"] for claim in claims) else 1


def text(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The README's results in Markdown."""
    titles = {name: f"{title} (`python -m benchmarks.{name}`)" for name, title in BENCHMARKS.items()}
    parts = [section(titles[name], result, SHORT.get(name, ())) for name, result in results.items()]
    places = dict.fromkeys(_place(result["machine"]) for result in results.values())
    return "\n\n".join([*parts, f"Measured on: {' / '.join(places)}."])


def _place(facts: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items() if version)
    where = f"{facts['processor']}, {facts['threads']} of {facts['processors']} processors, {facts['system']}, Python {facts['python']}"
    return f"{where}; {versions}"


def section(title: str, result: Mapping[str, Any], tables: Sequence[str] = ()) -> str:
    """One benchmark: a table for each kind of row, or only those of `tables`, what was skipped, and every claim that was missed."""
    kinds: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    titled: dict[str, list[dict[str, Any]]] = {}
    for row in result["rows"]:
        if tables and row.get("table") not in tables and "skipped" not in row:
            continue
        shown = {key: value for key, value in row.items() if key not in ("settings", "table")}
        if "table" in row:
            titled.setdefault(row["table"], []).append(shown)
        else:
            kinds.setdefault(tuple(key for key in shown if key not in ("times effc", "interval")), []).append(shown)
    missed = [claim for claim in result["claims"] if not claim["holds"]]
    defined = [TIMES_EFFC] if any("times effc" in row for row in result["rows"]) else []
    lines = [f"**{title}**", *defined, *(markdown(rows) for rows in kinds.values())]
    lines += [part for name, rows in titled.items() for part in (f"{name}:", markdown(rows))]
    if result["claims"]:
        lines.append(f"{len(result['claims']) - len(missed)} of {len(result['claims'])} claims hold.")
    lines += [f"Missed: {claim['name']}: {claim['value']:.3g}, needed {claim['sense']} {claim['bar']:g}." for claim in missed]
    return "\n\n".join(lines)


def replaced(document: str, content: str) -> str:
    """The document with `content` between its two marks. Raises ValueError unless each occurs once, in order."""
    if document.count(BEGIN) != 1 or document.count(END) != 1 or document.index(BEGIN) > document.index(END):
        raise ValueError(f"the document needs {BEGIN} and then {END}, each once")
    before, rest = document.split(BEGIN)
    return f"{before}{BEGIN}\n{content}\n{END}{rest.split(END)[1]}"


def _run(name: str, quick: bool, threads: int | None) -> dict[str, Any]:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--json", *(["--quick"] if quick else [])]
    command += [] if threads is None else ["--threads", str(threads)]
    print(f"benchmarks.{name} ...", file=sys.stderr)
    done = subprocess.run(command, cwd=Path(REPOSITORY), stdout=subprocess.PIPE, text=True, check=False)
    if not done.stdout:
        raise SystemExit(f"benchmarks.{name} ended with code {done.returncode} and no result; the README is as it was")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


if __name__ == "__main__":
    sys.exit(main())
