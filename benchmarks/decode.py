"""One token through a Llama-shaped stack: thresholds for 50 % and 80 % zeros in front of every layer, against dense engines.

The network is `wide` of `decoding`: four layers of 2048 channels, gated networks of 5632, 32 heads, a cache of 256 positions, random
weights (what is shown is time; `generation` and `lm_sparsity` show a trained model). Thresholds are those of `teal`, the same share for
every layer, calibrated on steps of the network; the head, embedding, norms and attention stay dense and are in the time. The peer is the
faster of onnxruntime on the ORIGINAL graph, whose caches are fed back without a copy, and effc's own dense artifact. The weights are
0.7 GB, so that every token reads them from memory, whatever was read before. `--quick` takes one layer and 80 % only.
"""

from __future__ import annotations

import gc
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.decoding import WIDE
from benchmarks.generation import calibration
from benchmarks.harness import Claim, Options, Outcome, main
from benchmarks.llama import Sizes, Step, random_weights, start
from effc.compiler import compile_model
from effc.ir import Program
from effc.lowering.fix_batch import fix_batch
from effc.lowering.onnx import export_onnx
from effc.passes.linear_sites import linear_sites
from effc.runtime.bench import Contender, compare_engines, contender_arguments

__all__ = ["measure"]

BARS = {0.5: 1.5, 0.8: 2.3}
_TEXTS = 16  # random sequences that thresholds are calibrated on


def measure(options: Options) -> Outcome:
    """Compile, then time all engines in one run."""
    import torch

    torch.set_num_threads(options.threads)
    outcome = Outcome()
    with tempfile.TemporaryDirectory() as folder:
        bars = {0.8: BARS[0.8]} if options.quick else BARS
        models, densities = _compiled(Path(folder), replace(WIDE, layers=1) if options.quick else WIDE, list(bars))
        gc.collect()  # the engines get the memory
        _time(outcome, models, densities, bars, options)
    return outcome


def _compiled(folder: Path, sizes: Sizes, shares: list[float]) -> tuple[dict[str, str], dict[str, float]]:
    """The models by engine, and the density of each of effc's: of all weights of linear layers, the share that is read."""
    step, examples = Step(random_weights(sizes)).eval(), start(sizes)
    models = {"effc, dense": str(folder / "dense"), "onnxruntime": str(folder / "step.onnx")}
    source = compile_model(step, models["effc, dense"], example_inputs=examples, states=step.states).program
    Path(models["onnxruntime"]).write_bytes(export_onnx(fix_batch(source, 1)))
    ids = np.random.default_rng(0).integers(1, sizes.vocabulary, (_TEXTS, sizes.positions))
    data = calibration(source.call, ids, sizes)
    densities = {"effc, dense": 1.0}
    for zeros in shares:
        label = f"effc, {zeros:.0%} zeros"
        models[label] = str(folder / f"zeros{zeros}")
        passes = f"teal{{sparsity={zeros},allocation=uniform}}"
        program = compile_model(step, models[label], passes=passes, data=data, example_inputs=examples, states=step.states).program
        densities[label] = _density(program)
    return models, densities


def _density(program: Program) -> float:
    """Of the bytes of all weights of linear layers, the head's included, the share whose inputs were not zero on the calibration data."""
    read = total = 0.0
    for site in linear_sites(program):
        fact = program.facts.values.get(site.input.name)
        read += site.bytes * (fact.density if fact is not None else 1.0)
        total += site.bytes
    return read / total


def _time(outcome: Outcome, models: dict[str, str], densities: dict[str, float], bars: dict[float, float], options: Options) -> None:
    shared = contender_arguments([], threads=options.threads)
    positions = WIDE.positions
    command = (sys.executable, "-m", "benchmarks.decode_worker")
    contenders = [
        Contender(label, (*command, model, "--engine", label.partition(",")[0], "--positions", str(positions), *shared))
        for label, model in models.items()
    ]
    contenders.append(Contender("nothing", (sys.executable, "-m", "benchmarks.nothing_worker", "-", *shared)))
    if options.quick:
        comparison = compare_engines(contenders, blocks=4, block_seconds=0.2, warm_up_seconds=0.2)
    else:
        comparison = compare_engines(contenders, blocks=16, block_seconds=1.0, warm_up_seconds=2.0)
    medians = {timing.label: timing.median for timing in comparison.timings}
    rounds = {
        timing.label: [statistics.median(block) for block in taken]
        for timing, taken in zip(comparison.timings, comparison.durations, strict=True)
    }
    peer = min(("effc, dense", "onnxruntime"), key=medians.__getitem__)
    for timing in comparison.timings:
        gain = statistics.median(theirs / own for theirs, own in zip(rounds[peer], rounds[timing.label], strict=True))
        row: dict[str, Any] = {"engine": timing.label, "density": densities.get(timing.label), "tokens/s": 1e9 / timing.median}
        row |= {"median us": timing.median / 1000, "p5 us": timing.percentile5 / 1000, "p95 us": timing.percentile95 / 1000}
        outcome.rows.append(row | {"peer": peer, "peer's time / this": gain, "settings": timing.settings})
        for zeros, bar in bars.items():
            if timing.label == f"effc, {zeros:.0%} zeros":
                outcome.claims.append(Claim(f"{zeros:.0%} zeros: the faster dense engine's time / effc's", gain, bar, "at least"))


if __name__ == "__main__":
    sys.exit(main(measure))
