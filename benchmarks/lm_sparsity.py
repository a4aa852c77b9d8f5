"""What sparse inputs cost a trained language model: loss and KL of the passes for activation sparsity, each at the density it really has.

The model is stories260K ($EFFC_DATA/stories260K), whole sequences at once. Passes see the first 82 texts of tinystories_tokens.npz
(`--data`; where one chooses by data it fits on 66 of them and chooses on 16, as `effc compile` does), everything in the tables is
measured on the last 64, which no pass has seen. (They are harder than the first 64, on which the dense model has 1.531 nats.) Programs
run in torch; one row runs as compiled code, token by token, too.

`zeros asked` is the pass's option. `density` is the share of the linear layers' weight bytes that a token still reads, from the zeros
that the rewritten program has on the held-out texts: an input that is zero spares a column of its layer, a zero of a gated network's
activation also spares a row of the layer beside the gate. `of the whole model` counts the head, the norms, the thresholds and a row of the
embedding as read in full. `KL` is from the dense model, in nats a token. `random masks` drop as many inputs without looking at them, the
score of doing nothing right. The top-k passes touch only the feed-forward parts, so beside their KL stand those of `magnitude` and of
random masks at the density that they have in the end.

Orderings that the papers report are claims, and may fail: WINA's KL is at most TEAL's at the same allocation, from 50 % on, where the
weights pay (arXiv 2505.19427); a greedy allocation's is at most the uniform one's (arXiv 2408.14690, section 4.1). Of the two forms of the
statistical top-k the hard one should be nearer here: the soft one, which is the paper's (arXiv 2506.06644), shifts what stays, and this
network was not trained with it. `smaller` says what the 95 % interval of the paired difference allows to say.
"""

from __future__ import annotations

import itertools
import math
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.generation import calibration, loss
from benchmarks.harness import Claim, Options, Outcome, data_file, main
from benchmarks.llama import Step, start
from benchmarks.stories import FILE, TOKENS, Whole, read
from benchmarks.weights_read import RandomMasks, Read, read_by_a_token
from effc.data import Dataset
from effc.evaluate import Score, compare, evaluate
from effc.frontends import load_program
from effc.ir import Program
from effc.passes import Context, Pipeline, parse_passes
from effc.passes.profiling import Seen, Watch

__all__ = ["METHODS", "SHORT", "Study", "measure"]

Array = np.ndarray[Any, Any]

QUALITY = "Quality on held-out text"
SHORT = (QUALITY,)  # the tables for a README

MAGNITUDE, GREEDY = "magnitude", "TEAL"
WINA_UNIFORM, WINA = "WINA, uniform", "WINA, greedy"
ROTATED, TOP_K, SOFT, HARD = "rotated WINA, uniform", "top-k", "statistical top-k, soft", "statistical top-k, hard"
METHODS = {
    MAGNITUDE: "teal{{sparsity={},allocation=uniform}}",
    GREEDY: "teal{{sparsity={}}}",
    WINA_UNIFORM: "wina{{sparsity={},allocation=uniform}}",
    WINA: "wina{{sparsity={}}}",
    ROTATED: "rotate,wina{{sparsity={},allocation=uniform}}",
    TOP_K: "topk{{sparsity={}}}",
    SOFT: "statistical-topk{{sparsity={}}}",
    HARD: "statistical-topk{{sparsity={},form=hard}}",
}
THRESHOLDS = (MAGNITUDE, GREEDY, WINA_UNIFORM, WINA)  # the methods whose density is to be what was asked for
OTHER_DENSITY = (ROTATED, TOP_K, SOFT, HARD)  # those whose density is another one: by a rotation's bytes, or feed-forward parts only
RANDOM, DENSE = "random masks", "dense"
LEVELS, QUICK_LEVELS = (0.25, 0.4, 0.5, 0.65), (0.5,)
CALIBRATION, HELD_OUT = 82, 64  # texts; of the file's 146
QUICK_CALIBRATION, QUICK_HELD_OUT = 10, 8
NEAR = 0.03  # how far a measured density may be from what was asked for
SAME = 1e-3  # nats: between a program in torch and its compiled code, where a value at its threshold may fall on either side
COMPILED = "compiled code: nats a token from those of the program in torch"
_FIT = 0.8  # as in `effc compile`

ORDERINGS = {
    (GREEDY, MAGNITUDE): 0.0,
    (WINA, WINA_UNIFORM): 0.0,
    (WINA_UNIFORM, MAGNITUDE): 0.5,
    (WINA, GREEDY): 0.5,
    (ROTATED, WINA_UNIFORM): math.inf,
    (HARD, SOFT): 0.0,
}
"""The nearer one and the other -> zeros from which that is a claim. A rotation costs bytes: its density is not the other's, so no claim."""


def measure(options: Options) -> Outcome:
    """Every method at every level."""
    outcome = Outcome()
    path, tokens = data_file(FILE), data_file(TOKENS)
    if path is None or tokens is None:
        outcome.skip("stories260K", f"$EFFC_DATA/{FILE if path is None else TOKENS} is missing")
        return outcome
    torch.set_num_threads(1)  # small products; and the same sums on every machine
    with np.load(tokens) as file:
        ids = file["ids"].astype(np.int64)
    given = ids[: QUICK_CALIBRATION if options.quick else CALIBRATION]
    held_out = ids[-(QUICK_HELD_OUT if options.quick else HELD_OUT) :]
    study = Study.of(Whole(read(path, ids.shape[1])).eval(), given, held_out)
    outcome.rows.append(study.row(DENSE, 0.0, study.dense))
    methods = {name: _coarse(spec) if options.quick and name in (GREEDY, WINA) else spec for name, spec in METHODS.items()}
    found = {level: _level(outcome, study, methods, level) for level in (QUICK_LEVELS if options.quick else LEVELS)}
    _order(outcome, found)
    try:
        _compiled(outcome, path, given, held_out, options)
    except Exception as error:  # noqa: BLE001 - what was measured in torch stands, whatever happens to the compiled code
        outcome.rows.append({"model": "compiled code", "failed": f"{type(error).__name__}: {str(error)[:300]}"})
        outcome.claims.append(Claim(COMPILED, math.nan, SAME, "at most"))
    return outcome


def _coarse(spec: str) -> str:
    """A greedy allocation in longer steps, which takes half the time."""
    return spec.replace("sparsity={}", "sparsity={},step=0.1")


def _level(outcome: Outcome, study: Study, methods: Mapping[str, str], level: float) -> dict[str, Result]:
    """Rows of every method, asked for the same share of zeros; their results."""
    found = {method: study.apply(spec.format(level)) for method, spec in methods.items()}
    found[RANDOM] = study.random(1 - level)
    for method, result in found.items():
        row = study.row(method, level, result)
        if method in OTHER_DENSITY:
            there = result.read.layers
            row["KL of random there"] = study.random(there).kl.value if there < 1 else 0.0
            row["KL of magnitude there"] = study.apply(METHODS[MAGNITUDE].format(round(max(0.0, 1 - there), 4))).kl.value
            random = row["KL of random there"]
        else:
            random = found[RANDOM].kl.value
        if method != RANDOM:
            ratio = result.kl.value / random if random else math.nan
            outcome.claims.append(Claim(f"{method}, {_asked(level)}: KL / that of random masks", ratio, 1.0, "at most"))
        if method in THRESHOLDS:
            off = abs(result.read.layers - (1 - level))
            outcome.claims.append(Claim(f"{method}, {_asked(level)}: distance of the measured density", off, NEAR, "at most"))
        outcome.rows.append(row)
    return found


def _asked(level: float) -> str:
    return f"{level:.0%} zeros"


@dataclass(frozen=True)
class Result:
    """A program on the held-out texts."""

    read: Read
    nats: Score
    kl: Score


@dataclass(frozen=True, eq=False)
class Study:
    """The dense program, the texts, and what the dense program says about them.

    Attributes:
        program: the dense one.
        data, held_out: what passes see, and what is measured on; labels are the next tokens.
        logits: of the dense program on the held-out texts, (N, T, vocabulary).
        dense: its result.
    """

    program: Program
    data: Dataset
    held_out: Dataset
    logits: Array
    dense: Result

    @classmethod
    def of(cls, module: torch.nn.Module, given: Array, held_out: Array) -> Study:
        """From a module and token ids (N, T + 1): each text's last token is only predicted."""
        program = load_program(module, example_inputs=(torch.from_numpy(given[:1, :-1]),))
        (name,) = (value.name for value in program.interface.inputs)
        data, held = (Dataset({name: np.ascontiguousarray(ids[:, :-1])}, ids[:, 1:]) for ids in (given, held_out))
        logits = _logits(Watch(program, {}), held)
        return cls(program, data, held, logits, _result(logits, logits, held, Read(1.0, 1.0)))

    def apply(self, passes: str) -> Result:
        """Rewrite the program as `effc compile --data` would, and measure."""
        pipeline = parse_passes(passes)
        needs = any(one.needs_selection for one in pipeline)
        fit, selection = self.data.split(_FIT, 0) if needs else (self.data, None)
        program = Pipeline(pipeline)(self.program, Context(fit, selection))
        seen = {node.name: Seen() for node in program.graph.nodes if isinstance(node.meta.get("val"), Tensor)}
        logits = _logits(Watch(program, {name: (one,) for name, one in seen.items()}), self.held_out)
        shares = read_by_a_token(program, self.program, {name: one.density for name, one in seen.items()})
        print(f"lm_sparsity: {passes}: reads {shares.layers:.1%}", file=sys.stderr)
        return _result(logits, self.logits, self.held_out, shares)

    def random(self, density: float) -> Result:
        """The dense program with random masks in front of the layers that passes may touch."""
        watch = RandomMasks(self.program, density, seed=0)
        logits = _logits(watch, self.held_out)
        whole = read_by_a_token(self.program, self.program, dict.fromkeys(watch.sites.values(), watch.kept)).whole
        return _result(logits, self.logits, self.held_out, Read(watch.kept, whole))

    def row(self, method: str, asked: float, result: Result) -> dict[str, Any]:
        """A row of the table."""
        shares = {"zeros asked": asked, "density": result.read.layers, "of the whole model": result.read.whole}
        quality = {"perplexity": result.nats.value, "nats a token": float(result.nats.samples.mean()), "KL": result.kl.value}
        return {"table": QUALITY, "method": method, **shares, **quality, "texts": len(self.held_out)}


def _logits(watch: Watch, data: Dataset) -> Array:
    parts = [next(iter(watch.run_batch(batch).values())).numpy() for batch in data.batches(16)]
    return np.concatenate(parts)


def _result(logits: Array, reference: Array, data: Dataset, read: Read) -> Result:
    def given(values: Array) -> Any:
        return lambda inputs: {"output": values}

    nats, kl = (evaluate(given(logits), data, name, reference=given(reference), batch_size=len(data)) for name in ("perplexity", "kl"))
    return Result(read, nats, kl)


def _order(outcome: Outcome, found: Mapping[float, Mapping[str, Result]]) -> None:
    """Which method is nearer to the dense model, in pairs on the same texts."""
    for (one, other), since in ORDERINGS.items():
        for level, results in found.items():
            better, worse = results[one].kl, results[other].kl
            difference = compare(worse, better)
            ratio = better.value / worse.value if worse.value else math.nan
            verdict = "yes" if difference.high <= 0 else "no" if difference.low > 0 else "undecided"
            row = {"table": "Orderings", "method": one, "beside": other, "zeros asked": level, "KL ratio": ratio}
            interval = f"{difference.low:.3g} to {difference.high:.3g}"
            outcome.rows.append(row | {"difference": difference.drop, "interval": interval, "smaller": verdict})
            if level >= since:
                outcome.claims.append(Claim(f"{one}, {_asked(level)}: KL / that of {other}", ratio, 1.0, "at most"))


def _compiled(outcome: Outcome, path: Path, given: Array, held_out: Array, options: Options) -> None:
    """The loss of one row through compiled code: a step with caches, whose layers skip; beside the same program in torch."""
    from effc.compiler import compile_model
    from effc.runtime import Stream, load

    weights = read(path, held_out.shape[1])
    step, passes = Step(weights).eval(), METHODS[MAGNITUDE].format(0.5)
    texts = held_out[: 4 if options.quick else 16]
    with tempfile.TemporaryDirectory() as folder:
        dense = load_program(step, example_inputs=start(weights.sizes), states=step.states)
        data = calibration(dense.call, given, weights.sizes)
        artifact = Path(folder, "artifact")
        made = compile_model(step, artifact, passes=passes, data=data, example_inputs=start(weights.sizes), states=step.states)
        plan = made.manifest.plan
        kernels = ", ".join(dict.fromkeys(one.family for one in plan.steps if one.macs)) if plan is not None else "virtual machine"
        session = load(artifact, threads=options.threads)
        found = float(np.mean([_compiled_loss(Stream(session), text) for text in texts]))
    expected = loss(made.program.call, texts, weights.sizes)
    row = {"table": "Through compiled code, token by token", "passes": passes, "texts": len(texts)}
    row["nats of dense"] = loss(dense.call, texts, weights.sizes)
    outcome.rows.append(row | {"nats in torch": expected, "nats compiled": found, "kernels": kernels})
    outcome.claims.append(Claim(COMPILED, abs(found - expected), SAME, "at most"))


def _compiled_loss(stream: Any, text: Array) -> float:
    total = 0.0
    for position, (token, following) in enumerate(itertools.pairwise(text)):
        logits = stream.run({"tokens": np.array([[token]]), "position": np.array([position])})["logits"][0].astype(np.float64)
        total += float(np.logaddexp.reduce(logits) - logits[following])
    return total / (len(text) - 1)


if __name__ == "__main__":
    sys.exit(main(measure))
