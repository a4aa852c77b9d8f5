"""Latency of one call: the compiled network beside onnxruntime at its best, eager torch and torch.compile, batch 1.

Each engine has a process of its own on the same processors; blocks alternate; inputs are fresh. `times effc` is the engine's time divided
by effc's (`harness.TIMES_EFFC`): above 1, effc is faster, and the claim is 1 against onnxruntime for every network. The engine `nothing`
returns at once: what is left of its time is the harness. Settings of every engine are in its row.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.harness import Claim, Options, Outcome, data_file, main
from benchmarks.models import DIGITS, FLOAT_MODELS, compiled
from effc.compiler.peers import peer_contender
from effc.runtime.bench import Contender, Timing, artifact_contender, compare_engines, contender_arguments

__all__ = ["measure"]

PEERS = ("onnxruntime", "torch", "torch_compile")
AS_FAST = 1.0


def measure(options: Options) -> Outcome:
    """Every float CNN against every engine."""
    outcome = Outcome()
    files = {"digits": DIGITS} | {name: data_file(f"onnx/{name}.onnx") for name in FLOAT_MODELS}
    if options.quick:
        files = {name: files[name] for name in ("digits", "mlperf_tiny_resnet8_cifar10")}
    for name, path in files.items():
        if path is None:
            outcome.skip(name, f"$EFFC_DATA/onnx/{name}.onnx is missing")
            continue
        try:
            _network(outcome, name, path, options)
        except Exception as error:  # noqa: BLE001 - one network that fails is a row of its own, and the others are still measured
            outcome.rows.append({"model": name, "failed": f"{type(error).__name__}: {str(error)[:300]}"})
    return outcome


def _network(outcome: Outcome, name: str, path: Path, options: Options) -> None:
    with tempfile.TemporaryDirectory() as folder:
        artifact = Path(folder, "artifact")
        session = compiled(path, artifact, threads=options.threads)
        inputs = [{"name": spec.name, "shape": spec.shape, "dtype": spec.dtype} for spec in session.inputs]
        shared = contender_arguments(inputs, threads=options.threads)
        peers = PEERS[:1] if options.quick else PEERS
        contenders = [
            artifact_contender(artifact, shared),
            *(peer_contender(peer, path, shared) for peer in peers),
            Contender("nothing", (sys.executable, "-m", "benchmarks.nothing_worker", "-", *shared)),
        ]
        if options.quick:
            comparison = compare_engines(contenders, blocks=6, block_seconds=0.1, warm_up_seconds=0.3)
        else:
            comparison = compare_engines(contenders, blocks=16, block_seconds=0.3, warm_up_seconds=1)
    ratios = {ratio.other: ratio for ratio in comparison.ratios}
    for timing in comparison.timings:
        row = _row(name, timing)
        if timing.label in ratios:
            ratio = ratios[timing.label]
            row |= {"times effc": ratio.value, "interval": f"{ratio.low:.3g} to {ratio.high:.3g}"}
        outcome.rows.append(row | {"settings": timing.settings})
    value = ratios["onnxruntime"].value
    outcome.claims.append(Claim(f"{name}: as fast as onnxruntime (its time divided by effc's)", value, AS_FAST, "at least"))


def _row(name: str, timing: Timing) -> dict[str, Any]:
    micro = {"median us": timing.median, "p5 us": timing.percentile5, "p95 us": timing.percentile95}
    return {"model": name, "engine": timing.label, **{key: value / 1000 for key, value in micro.items()}, "calls": timing.calls}


if __name__ == "__main__":
    sys.exit(main(measure))
