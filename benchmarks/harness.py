"""What all benchmarks share: options, machine facts, claims, the JSON form, tables, and where the data are.

A benchmark is a module with `measure(options: Options) -> Outcome` that ends with `sys.exit(main(measure))`. It prints tables, or with
`--json` one object: `{"machine": {...}, "rows": [{...}], "claims": [{"name", "value", "bar", "holds"}]}`. A row that could not be measured
holds its reason under `skipped`; rows with a `table` are shown together under that title. The exit status is 1 when a claim does not hold.

Engines are timed by `effc.runtime.bench`: one process each, alternating blocks, fresh inputs, warm-up, medians, ratios with intervals.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from effc.errors import EffcError

__all__ = [
    "DATA_HELP",
    "TIMES_EFFC",
    "Claim",
    "Options",
    "Outcome",
    "data_file",
    "data_folder",
    "machine",
    "main",
    "markdown",
    "tables",
]

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ("effc", "torch", "apache-tvm", "onnx", "onnxruntime", "openvino", "numpy")

TIMES_EFFC = (
    "`times effc` is the engine's time divided by effc's: above 1 effc is faster, below 1 slower (median over rounds of alternating blocks "
    "in one run, and its 95 % bootstrap interval)."
)

DATA_HELP = """\
$EFFC_DATA is a folder (default: ../shared/data beside the repository) with
  onnx/      mnist_cntk.onnx (opset 7; the ONNX model zoo's MNIST from CNTK), ultraface_rfb320.onnx (version-RFB-320.onnx of
             Linzaer/Ultra-Light-Fast-Generic-Face-Detector-1MB), and from the MLPerf Tiny submissions mlcommons/tiny_results_v1.2 and v1.3:
             mlperf_tiny_resnet8_cifar10.onnx, mlperf_tiny_vww96_float.onnx, and the int8 files mlperf_tiny_*_int8qdq.onnx
  cifar10/   resnet20-12fca82f.th (akamaster/pytorch_resnet_cifar10), resnet_cifar.py (the network, `load` and `prep`), and
             cifar10_test1017.npz: the first 1,017 test images, x uint8 (N, 32, 32, 3) and y uint8 (N,);
             torchvision.datasets.CIFAR10(root, train=False, download=True) has them in that order; cifar10_train8068.npz: training images
  stories260K/  stories260K.bin (a llama2.c checkpoint, karpathy/tinyllamas) and tinystories_tokens.npz: `ids`, TinyStories in the ids of
             that model's tokenizer (N, 256)
  video/     street_192x240x320_delta.npz: 192 frames of OpenCV's sample video vtest.avi, scaled to 240 x 320, as wrap-around differences
             (uint8) under `delta`; `benchmarks.clips.street_from(video, path)` makes it
Without it, rows that need it are skipped and say so."""


@dataclass(frozen=True)
class Options:
    """How to measure: `quick` ends within 60 seconds and says less; `threads` is the number of processors each engine gets.

    `more` holds the values of the arguments that the benchmark added itself, by name.
    """

    quick: bool = False
    threads: int = 1
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """A number, the bar it is held against, and whether it holds. NaN never holds."""

    name: str
    value: float
    bar: float
    sense: Literal["at most", "at least"]

    @property
    def holds(self) -> bool:
        return self.value <= self.bar if self.sense == "at most" else self.value >= self.bar

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "value": _finite(self.value), "bar": self.bar, "sense": self.sense, "holds": self.holds}


@dataclass
class Outcome:
    """Rows of any fields, in order, and claims about them."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)

    def skip(self, what: str, reason: str) -> None:
        """Note what was not measured, and why."""
        self.rows.append({"model": what, "skipped": reason})

    def as_json(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        rows = [{name: _finite(value) for name, value in row.items()} for row in self.rows]
        return {"machine": dict(facts), "rows": rows, "claims": [claim.as_json() for claim in self.claims]}


def data_folder() -> Path:
    """Where models and data sets are: $EFFC_DATA, else its default. It need not exist."""
    return Path(os.environ.get("EFFC_DATA") or REPOSITORY.parent / "shared" / "data")


def data_file(name: str) -> Path | None:
    """A file of the data folder; None where it is missing."""
    path = data_folder() / name
    return path if path.is_file() else None


def machine() -> dict[str, Any]:
    """Facts about this machine that a reader needs to judge a number."""
    return {
        "processor": _from_proc("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "processors": len(os.sched_getaffinity(0)),
        "memory": _from_proc("/proc/meminfo", "MemTotal"),
        "load": round(os.getloadavg()[0], 2),  # what else ran when the benchmark started
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def main(
    measure: Callable[[Options], Outcome],
    arguments: Sequence[str] | None = None,
    *,
    add_arguments: Callable[[argparse.ArgumentParser], None] | None = None,
) -> int:
    """Run a benchmark from the command line; the exit status. `add_arguments` gives it more options, which `Options.more` carries."""
    description = sys.modules[measure.__module__].__doc__
    parser = argparse.ArgumentParser(description=description, epilog=DATA_HELP, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under 60 seconds, fewer models")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="processors for each engine (default: all)")
    if add_arguments is not None:
        add_arguments(parser)
    chosen = parser.parse_args(arguments)
    more = {name: value for name, value in vars(chosen).items() if name not in ("quick", "json", "threads")}
    facts, started = machine(), time.monotonic()
    try:
        outcome = measure(Options(chosen.quick, chosen.threads, more))
    except EffcError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    facts["threads"], facts["quick"], facts["seconds"] = chosen.threads, chosen.quick, round(time.monotonic() - started, 1)
    if chosen.json:
        print(json.dumps(outcome.as_json(facts), indent=1, allow_nan=False))
    else:
        print(json.dumps(facts))
        print(tables(outcome.rows))
        for claim in outcome.claims:
            print(f"{'holds' if claim.holds else 'MISSED'}: {claim.name}: {claim.value:.3g} ({claim.sense} {claim.bar:g})")
    return 0 if all(claim.holds for claim in outcome.claims) else 1


def markdown(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> str:
    """A table with all columns of the rows, or those named, in order of first appearance."""
    if not rows:
        return ""
    names = list(columns or dict.fromkeys(key for row in rows for key in row))
    lines = [names, ["---"] * len(names), *([_cell(row.get(name, "")) for name in names] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def tables(rows: Sequence[Mapping[str, Any]]) -> str:
    """One table for each `table` that rows name, under its title and in order of first appearance; first those that name none."""
    groups: dict[str, list[dict[str, Any]]] = {"": []}
    for row in rows:
        groups.setdefault(row.get("table", ""), []).append({key: value for key, value in row.items() if key != "table"})
    titled = [f"**{title}**\n\n{markdown(members)}" if title else markdown(members) for title, members in groups.items() if members]
    return "\n\n".join(titled)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinities; they read as null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _from_proc(path: str, key: str) -> str:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:  # not Linux
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
