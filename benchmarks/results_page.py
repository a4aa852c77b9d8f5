"""What the results look like in the README (the claims that matter most, and every miss) and in docs/results.md (all tables)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import accelerators, ap, dense_cpu, embedded, lm_sparsity, proact, relu_sparsity, resilience, stream
from benchmarks.harness import TIMES_EFFC, markdown

__all__ = ["BENCHMARKS", "Shown", "full", "section", "short", "with_sections", "with_short"]

Results = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Shown:
    """How one benchmark is shown.

    Attributes:
        title: of its section.
        claims: how the names of the claims begin that stand in the README, whether they hold or not; every missed one does too.
        tables: of docs/results.md; empty: all.
    """

    title: str
    claims: tuple[str, ...]
    tables: tuple[str, ...] = ()


BENCHMARKS = {
    "latency": Shown(
        "Latency of one call, batch 1", ("digits: as fast", "mlperf_tiny_resnet8_cifar10: as fast", "ultraface_rfb320: as fast")
    ),
    "dense_cpu": Shown(
        "Dense networks beside their peers",
        ("geometric mean of onnxruntime's", "smallest of onnxruntime's", "aim: mlperf_tiny_resnet8_int8qdq, 2 threads"),
        dense_cpu.SHORT,
    ),
    "skip_gemv": Shown("One row times a large matrix, zeros skipped", ("4096x11008, 50%", "4096x11008, 80%", "4096x11008, 90%")),
    "decode": Shown("One token through a Llama-shaped stack, zeros skipped", ("50% zeros", "80% zeros")),
    "generation": Shown(
        "A language model that decodes token by token", ("stories260K: as fast", "stories260K, teal{sparsity=0.4}: as fast")
    ),
    "lm_sparsity": Shown(
        "Quality of a language model with sparse activations",
        ("TEAL, 50% zeros: KL / that of random", "WINA, greedy, 50% zeros: KL / that of TEAL", "compiled code: nats"),
        lm_sparsity.SHORT,
    ),
    "relu_sparsity": Shown("Zeros in networks with ReLUs", ("ResNet-20: time with thresholds",), relu_sparsity.SHORT),
    "faultsim": Shown(
        "Speed of fault simulation, and time to an answer",
        ("faults per second", "time to the same precision", "simulated campaigns whose interval"),
    ),
    "resilience": Shown("What bit flips do to a trained network", ("share of the critical ones from bit 30",), resilience.SHORT),
    "proact": Shown("Bounded activations under bit flips", ("ResNet-20: ProAct: drop",), proact.SHORT),
    "ap": Shown("Pruning with Activating-while-Pruning", ("CNN, magnitude: fall",), ap.SHORT),
    "stream": Shown(
        "Video: computing only what changed",
        (
            "ultraface, street: times as fast as onnxruntime",
            "ultraface, street: largest error",
            "ultraface, face: F1",
            "resnet20, street: times as fast",
        ),
        stream.SHORT,
    ),
    "embedded": Shown(
        "C for microcontrollers: memory, code, exactness",
        (
            *(
                f"{net}, cortex-m4: bytes of arena"
                for net in ("ResNet-8 float", "ResNet-8 int8", "keywords int8", "visual wake words int8")
            ),
            *(f"ResNet-8 {kind}, cortex-m4: bytes of flash" for kind in ("float", "int8")),
            "ResNet-8 int8, cortex-m4: values that are not",
        ),
        embedded.SHORT,
    ),
    "cross_targets": Shown(
        "Hexagon, RISC-V vectors, Arm dot products: exactness and instructions",
        ("self-tests under QEMU", "ResNet-8 int8, aarch64-dotprod: instructions"),
    ),
    "accelerators": Shown(
        "A model of accelerators, and faults in their arrays",
        (
            "32 x 32, weight-stationary: cycles",
            "outputs of the array that differ",
            "sums under a stuck",
            "lower end of the 95 %",
            "ResNet-20, CIFAR-10: times fewer cycles",
            "UltraFace, street: times fewer cycles for",
        ),
        accelerators.SHORT,
    ),
    "gpu_skip_gemv": Shown("One row times a large matrix on a GPU, zeros skipped", ()),
    "gpu_models": Shown("Float networks on a GPU: nearness to the CPU, and times", ()),
    "gpu_decode": Shown("One token through a Llama-shaped stack on a GPU", ()),
    "accuracy": Shown("Nearness to the source model", ("resnet50: relative error",)),
    "onnx_nodes": Shown("ONNX's own node tests", ("ONNX node tests passed, program", "ONNX node tests wrong, program")),
}


def short(results: Results) -> str:
    """The README's table: for each benchmark the claims of `BENCHMARKS`, then the missed ones; one that could not run is unproven.

    Raises ValueError for a name of none.
    """
    rows = []
    for name, result in results.items():
        shown, claims = BENCHMARKS[name], result["claims"]
        absent = [begin for begin in shown.claims if claims and not any(claim["name"].startswith(begin) for claim in claims)]
        if absent:
            raise ValueError(f"benchmarks.{name} makes no claim whose name begins with {', '.join(map(repr, absent))}")
        chosen = [claim for claim in claims if claim["name"].startswith(shown.claims)]
        missed = [claim for claim in claims if not claim["holds"] and claim not in chosen]
        held = sum(claim["holds"] for claim in claims)
        title = f"[{name}](docs/results.md#{_anchor(shown.title)}): {held} of {len(claims)}"
        if not claims:
            why = next((str(row["skipped"]) for row in result["rows"] if "skipped" in row), "nothing was measured")
            rows.append({"benchmark: claims that hold": title, "claim": why, "measured": "**unproven**", "bar": ""})
        for place, claim in enumerate([*chosen, *missed]):
            bar = f"{claim['sense']} {_number(claim['bar'])}"
            row = {"benchmark: claims that hold": title if place == 0 else "", "claim": claim["name"], "measured": _number(claim["value"])}
            rows.append(row | {"bar": bar if claim["holds"] else f"**missed**: {bar}"})
    return markdown(rows)


def full(results: Results) -> str:
    """All sections, and where they were measured."""
    parts = [_whole(name, result) for name, result in results.items()]
    places = dict.fromkeys(_place(result["machine"]) for result in results.values())
    return "\n\n".join([*parts, f"Measured on: {' / '.join(places)}."])


def with_short(table: str, results: Results) -> str:
    """A README's table with the rows of these benchmarks in the place of those that it has; the others stay as they are."""
    old: dict[str, list[str]] = {}
    head, rule, *rows = table.strip().splitlines()
    for row in rows:
        name = row[len("| [") : row.index("]")] if row.startswith("| [") else ""
        if name:
            old[name] = []
        old[name or list(old)[-1]].append(row)
    old |= {name: short({name: result}).splitlines()[2:] for name, result in results.items()}
    return "\n".join([head, rule, *(row for name in BENCHMARKS if name in old for row in old[name])])


def with_sections(page: str, results: Results) -> str:
    """A page of results with the sections of these benchmarks in the place of those that it has; the others stay as they are."""
    body, _, places = page.strip().rpartition("\n\nMeasured on: ")
    old = {part.partition("\n")[0]: f"## {part.strip()}" for part in f"\n{body}".split("\n## ")[1:]}
    old |= {BENCHMARKS[name].title: _whole(name, result) for name, result in results.items()}
    known = dict.fromkeys([*places.removesuffix(".").split(" / "), *(_place(result["machine"]) for result in results.values())])
    parts = [old[shown.title] for shown in BENCHMARKS.values() if shown.title in old]
    return "\n\n".join([*parts, f"Measured on: {' / '.join(known)}."])


def _whole(name: str, result: Mapping[str, Any]) -> str:
    return section(f"## {BENCHMARKS[name].title}\n\n`python -m benchmarks.{name}`", result, BENCHMARKS[name].tables)


def section(heading: str, result: Mapping[str, Any], tables: Sequence[str] = ()) -> str:
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
    lines = [heading, *defined, *(markdown(rows) for rows in kinds.values())]
    lines += [part for table, rows in titled.items() for part in (f"{table}:", markdown(rows))]
    if result["claims"]:
        lines.append(f"{len(result['claims']) - len(missed)} of {len(result['claims'])} claims hold.")
    lines += [f"Missed: {claim['name']}: {claim['value']:.3g}, needed {claim['sense']} {claim['bar']:g}." for claim in missed]
    return "\n\n".join(lines)


def _anchor(heading: str) -> str:
    """Of a heading, as GitHub makes it."""
    return "".join(letter for letter in heading.lower().replace(" ", "-") if letter.isalnum() or letter in "-_")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _place(facts: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items() if version)
    where = f"{facts['processor']}, {facts['threads']} of {facts['processors']} processors, {facts['system']}, Python {facts['python']}"
    return f"{where}; {versions}"
