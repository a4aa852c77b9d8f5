"""A language model that decodes token by token with its caches inside: compiled, in eager torch, and in onnxruntime; tokens a second.

`stories260K` is trained ($EFFC_DATA/stories260K/stories260K.bin, a llama2.c checkpoint of karpathy/tinyllamas). Its compiled form writes
256 greedy tokens through `effc.runtime.Stream`, which must be those of a module that computes the whole text anew for every token and
shares no code with the step. `wide` has layers of 2048 channels and random weights: what it shows is time.

A full run shows the trained model once more with the passes `SPARSE`. `--passes` compiles with others, calibrated on steps of the model;
then the compiled tokens must be those of the rewritten program in torch, and the loss on held-out text
($EFFC_DATA/stories260K/tinystories_tokens.npz) stands beside that of the source. Peers stay dense, and what effc makes without passes,
`effc dense`, is one of them.

Each engine has a process of its own on the same processors; blocks alternate. `times effc` is the engine's time for a token divided by
effc's (`harness.TIMES_EFFC`).
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.decoding import (
    BEGIN,
    NETWORKS,
    Array,
    Decode,
    effc_engine,
    greedy,
    onnxruntime_engine,
    program_engine,
    torch_engine,
)
from benchmarks.harness import Claim, Options, Outcome, data_file, main
from benchmarks.llama import Sizes, Step, Weights, start
from benchmarks.stories import TOKENS, Whole
from effc.ir import Program
from effc.runtime.bench import Contender, Timing, compare_engines, contender_arguments

__all__ = ["calibration", "loss", "measure", "whole_engine"]

Call = Callable[..., Sequence[Any]]  # inputs in order -> outputs in order

ENGINES = {"effc": effc_engine, "effc dense": effc_engine, "onnxruntime": onnxruntime_engine}
TOKENS_OF = {"stories260K": 256, "wide": 16}  # that are compared
AS_FAST = 1.0
SPARSE = "teal{sparsity=0.4}"  # of the trained network beside its dense form, in a full run without --passes
SEQUENCES, POSITIONS_EACH = 64, 4  # of the calibration data
RANDOM_SEQUENCES = 16  # of token ids where there is no text
HELD_OUT = 32  # sequences


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The benchmark's own options."""
    parser.add_argument("--passes", default="", help='passes to compile with: "teal{sparsity=0.5}"; none leaves the model dense')
    parser.add_argument("--model", choices=tuple(NETWORKS), help="only this one")


def measure(options: Options) -> Outcome:
    """Every network: tokens, loss, time."""
    import torch

    torch.set_num_threads(1)  # of this process: small products wait longer for a second thread than they gain from it
    outcome = Outcome()
    chosen, given = options.more.get("model"), str(options.more.get("passes") or "")
    names = [chosen] if chosen else ["stories260K"] if options.quick else list(NETWORKS)
    runs = [(name, given) for name in names]
    if not given and not options.quick and "stories260K" in names:
        runs.append(("stories260K", SPARSE))
    for name, passes in runs:
        weights = NETWORKS[name]()
        if weights is None:
            outcome.skip(name, "$EFFC_DATA/stories260K/stories260K.bin is missing")
            continue
        try:
            with tempfile.TemporaryDirectory() as folder:
                _network(outcome, name, passes, weights, Path(folder), options)
        except Exception as error:  # noqa: BLE001 - one network that fails is a row of its own, and the others are still measured
            outcome.rows.append({"model": name, "failed": f"{type(error).__name__}: {str(error)[:600]}"})
            outcome.claims.append(Claim(f"{name}: compiled, run and compared", float("nan"), 1, "at least"))
        gc.collect()
    return outcome


def _network(outcome: Outcome, name: str, passes: str, weights: Weights, folder: Path, options: Options) -> None:
    models = {"effc": str(folder / "artifact"), "onnxruntime": str(folder / "step.onnx"), "torch": name}
    models |= {"effc dense": str(folder / "dense")} if passes else {}
    programs = _compile(name, weights, models, passes)
    count = TOKENS_OF[name]
    expected = greedy(program_engine(programs[passes]) if passes else whole_engine(weights), count)
    reference = "the rewritten program in torch" if passes else "the whole text anew for each token, in torch"
    for label, model in models.items():
        engine = torch_engine(weights) if label == "torch" else ENGINES[label](Path(model), options.threads)
        equal = _equal(greedy(engine, count), expected)
        row = {"table": "Tokens", "model": name, "engine": label, "tokens": count, "equal": equal, "reference": reference}
        outcome.rows.append(row | ({"passes": passes} if passes else {}))
        if label == "effc":
            which = f"{name}, {passes}" if passes else name
            outcome.claims.append(Claim(f"{which}: greedy tokens like those of {reference}", equal, count, "at least"))
        del engine
    _losses(outcome, name, weights.sizes, programs, options)
    positions = weights.sizes.positions
    del programs, weights
    gc.collect()  # the engines get the memory
    _time(outcome, name, passes, models, positions, options)


def _compile(name: str, weights: Weights, models: dict[str, str], passes: str) -> dict[str, Program]:
    """Write the artifacts, and the source's ONNX form; the source's program and that with passes, by the passes."""
    from effc.compiler import compile_model
    from effc.lowering.fix_batch import fix_batch
    from effc.lowering.onnx import export_onnx

    step, examples = Step(weights).eval(), start(weights.sizes)
    dense = models["effc dense"] if passes else models["effc"]
    source = compile_model(step, dense, example_inputs=examples, states=step.states).program
    Path(models["onnxruntime"]).write_bytes(export_onnx(fix_batch(source, 1)))
    if not passes:
        return {"": source}
    data = calibration(source.call, _texts(name, weights.sizes), weights.sizes)
    result = compile_model(step, models["effc"], passes=passes, data=data, example_inputs=examples, states=step.states)
    return {"": source, passes: result.program}


def whole_engine(weights: Weights) -> Decode:
    """The reference: all of the text so far through a network without caches."""
    import torch

    module, seen = Whole(weights).eval(), list[int]()

    def decode(token: int, position: int) -> Array:
        seen[position:] = [token]
        with torch.inference_mode():
            array: Array = module(torch.tensor([seen]))[0, -1].numpy()
        return array

    return decode


def _equal(tokens: list[int], expected: list[int]) -> int:
    """How many tokens agree before the first that does not."""
    different = (place for place, (one, other) in enumerate(zip(tokens, expected, strict=True)) if one != other)
    return next(different, len(expected))


# ---- data ----------------------------------------------------------------------------------------------------------------------


def _texts(name: str, sizes: Sizes) -> Array:
    """Sequences of token ids (N, T), int64: TinyStories for the model that was trained on them, else random ids."""
    path = data_file(TOKENS)
    if path is None or name != "stories260K":
        return np.random.default_rng(0).integers(BEGIN, sizes.vocabulary, (RANDOM_SEQUENCES, sizes.positions))
    with np.load(path) as file:
        ids: Array = file["ids"].astype(np.int64)[:, : sizes.positions]
    return ids


def calibration(call: Call, texts: Array, sizes: Sizes) -> dict[str, Array]:
    """Inputs of steps that happen: some random positions of each of the first texts, with the caches as they are there, by input name.

    Args:
        call: a dense `Step` that takes several sequences at once.
        texts: token ids (N, T).
        sizes: the step's.
    """
    import torch

    ids, generator = torch.from_numpy(texts[:SEQUENCES]), torch.Generator().manual_seed(0)
    chosen = torch.stack([torch.randperm(ids.shape[1], generator=generator)[:POSITIONS_EACH] for _ in ids])
    states: Sequence[Any] = start(sizes, len(ids))[2:]
    parts: list[list[Array]] = []
    with torch.inference_mode():
        for position in range(int(chosen.max()) + 1):
            given = (ids[:, position : position + 1], torch.full((len(ids),), position), *states)
            rows = (chosen == position).any(1)
            if rows.any():
                parts.append([value[rows].numpy() for value in given])
            states = call(*given)[1:]
    names = ["tokens", "position", *(f"caches_{i}" for i in range(len(states)))]
    return {name: np.concatenate(column) for name, column in zip(names, zip(*parts, strict=True), strict=True)}


def loss(call: Call, texts: Array, sizes: Sizes) -> float:
    """Mean negative log-likelihood of the next token, in nats, over all positions of texts (N, T): step by step with caches."""
    import torch
    from torch.nn import functional as F

    ids = torch.from_numpy(texts)
    states: Sequence[Any] = start(sizes, len(texts))[2:]
    total = 0.0
    with torch.inference_mode():
        for position in range(ids.shape[1] - 1):
            logits, *states = call(ids[:, position : position + 1], torch.full((len(ids),), position), *states)
            total += float(F.cross_entropy(logits.double(), ids[:, position + 1], reduction="sum"))
    return total / (ids.shape[0] * (ids.shape[1] - 1))


def _losses(outcome: Outcome, name: str, sizes: Sizes, programs: dict[str, Program], options: Options) -> None:
    if name != "stories260K" or data_file(TOKENS) is None:
        outcome.skip(f"{name}: loss", f"$EFFC_DATA/{TOKENS} is missing" if name == "stories260K" else "its weights are random")
        return
    texts = _texts(name, sizes)[-(HELD_OUT // 4 if options.quick else HELD_OUT) :]
    for passes, program in programs.items():
        row = {"table": "Loss on held-out text", "model": name, "passes": passes or "none", "tokens": texts[:, 1:].size}
        outcome.rows.append(row | {"nats a token": loss(program.call, texts, sizes)})


# ---- time ----------------------------------------------------------------------------------------------------------------------


def _time(outcome: Outcome, name: str, passes: str, models: dict[str, str], positions: int, options: Options) -> None:
    shared = contender_arguments([], threads=options.threads)
    command = (sys.executable, "-m", "benchmarks.decode_worker")
    contenders = [
        Contender(label, (*command, model, "--engine", label.removesuffix(" dense"), "--positions", str(positions), *shared))
        for label, model in models.items()
    ]
    if options.quick:
        comparison = compare_engines(contenders, blocks=6, block_seconds=0.2, warm_up_seconds=0.3)
    else:
        comparison = compare_engines(contenders, blocks=16, block_seconds=1.0, warm_up_seconds=2.0)
    ratios = {ratio.other: ratio for ratio in comparison.ratios}
    for timing in comparison.timings:
        row = _row(name, timing) | ({"passes": passes or "none"} if timing.label == "effc" else {})
        if timing.label in ratios:
            ratio = ratios[timing.label]
            row |= {"times effc": ratio.value, "interval": f"{ratio.low:.3g} to {ratio.high:.3g}"}
        outcome.rows.append(row | {"settings": timing.settings})
    value = ratios["onnxruntime"].value
    which = f"{name}, {passes}" if passes else name
    outcome.claims.append(Claim(f"{which}: as fast as onnxruntime (its time for a token divided by effc's)", value, AS_FAST, "at least"))


def _row(name: str, timing: Timing) -> dict[str, Any]:
    micro = {"median us": timing.median, "p5 us": timing.percentile5, "p95 us": timing.percentile95}
    values = {key: value / 1000 for key, value in micro.items()}
    return {"table": "Time of a token", "model": name, "engine": timing.label, "tokens/s": 1e9 / timing.median, **values}


if __name__ == "__main__":
    sys.exit(main(measure, add_arguments=add_arguments))
