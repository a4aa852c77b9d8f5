"""One token through a Llama-shaped stack on an NVIDIA GPU: thresholds for zeros in front of every layer, against torch.compile.

The network and the thresholds are those of `decode` (random weights, float32: what is shown is time). All engines keep their caches on the
device; a step takes a token's number there and brings the logits back, copies included. The peer is the faster of torch.compile
(`max-autotune`, CUDA graphs) and torch without it; effc's own dense artifact, the trivial baseline, is beside them.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.decoding import WIDE
from benchmarks.generation import calibration
from benchmarks.harness import Claim, Options, Outcome, main
from benchmarks.llama import Sizes, Step, random_weights, start
from effc.compiler import compile_model
from effc.runtime import Stream, load

__all__ = ["measure"]

BARS = {0.5: 1.3, 0.8: 1.8}
_TEXTS = 16  # random sequences that thresholds are calibrated on
_WHAT = "one token through a Llama-shaped stack"


def measure(options: Options) -> Outcome:
    """All engines in turns, one process."""
    outcome = Outcome()
    if not torch.cuda.is_available():
        outcome.skip(_WHAT, "torch sees no NVIDIA GPU on this machine: how fast decoding is on one is unproven")
        return outcome
    sizes = replace(WIDE, layers=1) if options.quick else WIDE
    with tempfile.TemporaryDirectory() as folder:
        engines = _effc(Path(folder), sizes, [0.8] if options.quick else list(BARS)) | _torch(sizes)
        count = min(sizes.positions - 1, 20 if options.quick else 200)
        times: dict[str, list[float]] = {name: [] for name in engines}
        for position in range(count):
            for name, step in engines.items():
                begun = time.perf_counter()
                step(1 + position % 100, position)
                times[name].append(time.perf_counter() - begun)
    _report(outcome, {name: taken[count // 4 :] for name, taken in times.items()})  # the first ones warm up
    return outcome


def _effc(folder: Path, sizes: Sizes, shares: list[float]) -> dict[str, Callable[[int, int], object]]:
    """Dense, and with thresholds."""
    major, minor = torch.cuda.get_device_capability()
    step, examples = Step(random_weights(sizes)).eval(), start(sizes)
    settings = {"target": f"cuda:sm_{major}{minor}", "example_inputs": examples, "states": step.states}
    source = compile_model(step, folder / "dense", **settings).program  # type: ignore[arg-type]
    ids = np.random.default_rng(0).integers(1, sizes.vocabulary, (_TEXTS, sizes.positions))
    data = calibration(source.call, ids, sizes)
    names = {"effc, dense": "dense"}
    for zeros in shares:
        names[f"effc, {zeros:.0%} zeros"] = f"zeros{zeros}"
        passes = f"teal{{sparsity={zeros},allocation=uniform}}"
        compile_model(step, folder / f"zeros{zeros}", passes=passes, data=data, **settings)  # type: ignore[arg-type]

    def stepping(stream: Stream) -> Callable[[int, int], object]:
        specs = {spec.name: spec for spec in stream.inputs}

        def run(number: int, at: int) -> object:
            values = {"tokens": number, "position": at}
            return stream.run({name: np.full(specs[name].shape, value, specs[name].dtype) for name, value in values.items()})

        return run

    return {label: stepping(Stream(load(folder / name))) for label, name in names.items()}


def _torch(sizes: Sizes) -> dict[str, Callable[[int, int], object]]:
    """Without and with torch.compile."""
    step, examples = Step(random_weights(sizes)).eval().cuda(), start(sizes)

    def stepping(run: Callable[..., dict[str, Tensor]]) -> Callable[[int, int], object]:
        caches = [one.cuda() for one in examples[2:]]

        def one_token(number: int, at: int) -> object:
            nonlocal caches
            with torch.no_grad():
                made = run(torch.full_like(examples[0], number).cuda(), torch.full_like(examples[1], at).cuda(), *caches)
                caches = [made[name].clone() for name in step.states.values()]  # a CUDA graph overwrites what it gave
                return made["logits"].cpu()

        return one_token

    return {"torch": stepping(step), "torch.compile": stepping(torch.compile(step, mode="max-autotune"))}


def _report(outcome: Outcome, times: dict[str, list[float]]) -> None:
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    peer = min(("torch", "torch.compile"), key=medians.__getitem__)
    for name, median in medians.items():
        gain = statistics.median(theirs / own for theirs, own in zip(times[peer], times[name], strict=True))
        row = {"engine": name, "tokens/s": 1 / median, "median us": median * 1e6, "peer": peer, "peer's time / this": gain}
        outcome.rows.append(row)
        for zeros, bar in BARS.items():
            if name == f"effc, {zeros:.0%} zeros":
                outcome.claims.append(Claim(f"{zeros:.0%} zeros: torch's time / effc's", gain, bar, "at least"))


if __name__ == "__main__":
    sys.exit(main(measure))
