"""Float networks on an NVIDIA GPU: are the outputs those of the CPU, and how long does a call take?

Each network is an artifact with golden vectors, which the program gave on the CPU that compiled it. Claims: no output is further than 1e-3
from them, relative to the output's largest magnitude. The time is of `Session.run` with inputs and outputs in the host's memory, copies
included; the trivial baseline beside it is a network that only changes the sign of as many numbers: what a call costs by itself.

On one machine:      python -m benchmarks.gpu_models
Compiled elsewhere:  python -m benchmarks.gpu_models --artifacts DIR --compile-only --target cuda:sm_90     (needs nvcc, no GPU)
and on the GPU's:    python -m benchmarks.gpu_models --artifacts DIR     (needs effc.runtime, numpy and the driver, nothing else)
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import Claim, Options, Outcome, data_file, main
from benchmarks.models import DIGITS, FLOAT_MODELS, TORCHVISION, random_inputs, torchvision_model
from effc.errors import AlteredArtifactError, ConfigError, DataError, MissingDependencyError
from effc.runtime import Session, load, open_artifact, verify_golden
from effc.runtime.cuda.libcuda import devices

__all__ = ["MOST", "add_arguments", "measure"]

MOST = 1e-3  # of an output's largest magnitude
_QUICK = ("mnist_cntk", "mlperf_tiny_resnet8_cifar10")
_BASELINE = "negation"  # the trivial baseline's name begins with this
_CALLS = {True: 20, False: 200}  # by `quick`


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where artifacts are, and what to do with them."""
    parser.add_argument("--artifacts", metavar="DIR", help="artifacts that were compiled before; with --compile-only, where to put them")
    parser.add_argument("--compile-only", action="store_true", help="compile into --artifacts and run nothing")
    parser.add_argument("--target", help="to compile for, such as cuda:sm_90 (default: this machine's first GPU)")


def measure(options: Options) -> Outcome:
    """Compile where asked to, then run every artifact of the folder."""
    outcome = Outcome()
    given, only = options.more.get("artifacts"), bool(options.more.get("compile_only"))
    if only and not (given and options.more.get("target")):
        raise ConfigError("--compile-only needs --artifacts DIR, where the artifacts go, and --target, such as cuda:sm_90")
    if only:
        _compiled(outcome, Path(given), str(options.more["target"]), options.quick)
        return outcome
    try:
        found = devices()
    except MissingDependencyError as error:
        outcome.skip("all networks", f"{error.message}: nothing of this is shown")
        return outcome
    if not found:
        outcome.skip("all networks", "NVIDIA's driver sees no GPU: nothing of this is shown")
        return outcome
    if given:
        _run(outcome, Path(given), options.quick)
        return outcome
    name, (major, minor) = found[0]
    outcome.rows.append({"table": "GPU", "name": name, "compute capability": f"{major}.{minor}"})
    with tempfile.TemporaryDirectory() as folder:
        _compiled(outcome, Path(folder), str(options.more.get("target") or f"cuda:sm_{major}{minor}"), options.quick)
        _run(outcome, Path(folder), options.quick)
    return outcome


def _compiled(outcome: Outcome, folder: Path, target: str, quick: bool) -> None:
    """Every network, and for each of another input size the baseline."""
    import numpy as np
    import torch

    from effc.compiler import compile_model

    sources: list[tuple[str, Any, dict[str, Any]]] = [("digits", DIGITS, {})]
    for name in _QUICK if quick else FLOAT_MODELS:
        path = data_file(f"onnx/{name}.onnx")
        if path is None:
            outcome.skip(name, "the data folder has no such file")
        else:
            sources.append((name, path, {}))
    for name in () if quick else TORCHVISION:
        try:
            sources.append((name, torchvision_model(name), {"example_inputs": (torch.zeros(1, 3, 224, 224),)}))
        except MissingDependencyError as error:
            outcome.skip(name, error.message)
    sizes = set()
    for name, source, settings in sources:
        compile_model(source, folder / name, target=target, **settings)
        manifest = open_artifact(folder / name).manifest
        outcome.rows.append(
            {"table": "compiled", "model": name, "target": target, "steps": len(manifest.plan.steps) if manifest.plan else 0}
        )
        sizes.add(sum(int(np.prod(spec.shape)) for spec in manifest.inputs))
    for size in sorted(sizes):
        compile_model(_negation().eval(), folder / _baseline(size), target=target, example_inputs=(torch.zeros(1, size),))


def _negation() -> Any:
    import torch

    class Negation(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return -x

    return Negation()


def _baseline(size: int) -> str:
    return f"{_BASELINE} {size}"


def _run(outcome: Outcome, folder: Path, quick: bool) -> None:
    """Check and time what is in a folder."""
    artifacts = sorted(path for path in folder.iterdir() if (path / "manifest.json").is_file()) if folder.is_dir() else []
    if not artifacts:
        raise DataError(f"{folder} holds no artifacts: make them with --compile-only")
    medians = {}
    for path in artifacts:
        try:
            session = load(path)
        except (MissingDependencyError, DataError, AlteredArtifactError) as error:
            outcome.skip(path.name, error.message)
            continue
        if not path.name.startswith(_BASELINE):
            outcome.claims.append(Claim(f"{path.name}: difference from the CPU", verify_golden(session).worst, MOST, "at most"))
        medians[path.name] = _times(session, _CALLS[quick]), sum(array.size for array in random_inputs(session.inputs).values())
    for name, (taken, size) in medians.items():
        row = {"model": name, "median us": statistics.median(taken) * 1e6, "fastest us": min(taken) * 1e6}
        if not name.startswith(_BASELINE) and _baseline(size) in medians:
            row["us of the baseline"] = statistics.median(medians[_baseline(size)][0]) * 1e6
        outcome.rows.append(row)


def _times(session: Session, calls: int) -> Sequence[float]:
    """Seconds of each call, after some that warm up."""
    inputs = [random_inputs(session.inputs, seed) for seed in range(4)]
    taken = []
    for number in range(calls + 5):
        begun = time.perf_counter()
        session.run(inputs[number % len(inputs)])
        if number >= 5:
            taken.append(time.perf_counter() - begun)
    return taken


if __name__ == "__main__":
    sys.exit(main(measure, add_arguments=add_arguments))
