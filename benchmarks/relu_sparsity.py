"""ReLU networks: how sparse what their convolutions read is, how much sparser thresholds make it, and whether skipping could pay.

ResNet-20 and MLPerf Tiny's ResNet-8, trained on CIFAR-10. `fatrelu{max-drop=0.005}` gets training images (it fits on four fifths and
chooses by the rest) and is judged on test images. The networks have been trained on those training images and know them by heart, so a
budget that holds there need not hold on the test images; the claim is about the test images, and the gate of `effc compile` (`--eval`,
`--max-drop`) is there to refuse such a network.

Times are of compiled code on test images, batch 1, in one comparison: effc's dense network, the same without Winograd's algorithm (a
kernel that skips must be a direct one: Winograd's sums have no zeros), the one with thresholds, and onnxruntime on the dense network.
effc has no convolution that skips, so what thresholds do to the time is their own cost.

What such a kernel could gain at best stands beside: a layer takes, at the least, the time of its direct kernel times the share of
multiply-adds that are left (`benchmarks.zeros`: input channels that are zero in the whole image; runs of 8 pixels; single values),
as if finding zeros cost nothing. A layer's time is its share in the steps of the plan, timed one by one, of the network's time. Where
the least is not under the dense layer's time, the dense layer stays.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.dense_networks import write_onnx
from benchmarks.harness import Claim, Options, Outcome, data_file, main
from benchmarks.models import module_from
from benchmarks.zeros import GRANULARITIES, Convolution, Zeros, convolutions
from effc.compiler import CompileResult, compile_model
from effc.compiler.peers import peer_contender
from effc.data import Dataset
from effc.evaluate import Score, compare, evaluate
from effc.ir import Program
from effc.passes.profiling import Watch
from effc.runtime import load
from effc.runtime.bench import Ratio, artifact_contender, compare_engines, contender_arguments

__all__ = ["SHORT", "best_times", "measure", "step_times"]

Images = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]  # float32 (N, 3, 32, 32), labels (N,)

ACCURACY, TIME, PAYS = "Top-1", "Time of a call, batch 1", "Does it pay"
SHORT = ACCURACY, TIME, PAYS  # the tables for a README

TRAINING, TEST = "cifar10/cifar10_train8068.npz", "cifar10/cifar10_test1017.npz"
RESNET20, RESNET8 = ("cifar10/resnet_cifar.py", "cifar10/resnet20-12fca82f.th"), ("onnx/mlperf_tiny_resnet8_cifar10.onnx",)
NEEDS = {"ResNet-8": (*RESNET8, TRAINING, TEST), "ResNet-20": (*RESNET20, TRAINING, TEST)}
IMAGES, QUICK_IMAGES = 4000, 400  # of the training images
QUICK_TEST = 300
MAX_DROP = 0.005
PASSES = "fold-batch-norm", f"fold-batch-norm,fatrelu{{max-drop={MAX_DROP}}}"
COST = 1.05  # what thresholds may add to a network's time
NEAR = 0.03  # between densities on training and on test images
DENSE, DIRECT, RAISED, PEER = "effc", "effc, direct", "effc, fatrelu", "onnxruntime"
WINOGRAD = "winograd"  # the family of such a step


def measure(options: Options) -> Outcome:
    """Both networks; ResNet-8 alone in a quick run."""
    outcome = Outcome()
    torch.set_num_threads(1)
    for name in ("ResNet-8",) if options.quick else NEEDS:
        missing = [file for file in NEEDS[name] if data_file(file) is None]
        if missing:
            outcome.skip(name, f"$EFFC_DATA/{missing[0]} is missing")
            continue
        print(f"relu_sparsity: {name} ...", file=sys.stderr)
        try:
            with tempfile.TemporaryDirectory() as folder:
                _network(outcome, name, Path(folder), options)
        except Exception as error:  # noqa: BLE001 - one network that fails is a row of its own, and the other is still measured
            outcome.rows.append({"model": name, "failed": f"{type(error).__name__}: {str(error)[:300]}"})
            outcome.claims.append(Claim(f"{name}: compiled, run and compared", float("nan"), 1, "at least"))
    return outcome


def _network(outcome: Outcome, name: str, folder: Path, options: Options) -> None:
    source, fitting, held_out = _read(name, options)
    examples = None if isinstance(source, Path) else (torch.from_numpy(fitting[0][:1]),)
    compiled = partial(compile_model, source, data=dict(zip("xy", fitting, strict=True)), example_inputs=examples)
    dense = compiled(folder / DENSE, passes=PASSES[0])
    direct = compiled(folder / DIRECT, passes=PASSES[0], winograd="off")
    raised = compiled(folder / RAISED, passes=PASSES[1])
    (key,) = (value.name for value in dense.program.interface.inputs)
    training, test = (Dataset({key: images}, labels) for images, labels in (fitting, held_out))
    write_onnx(source, folder / "model.onnx", examples or (), 1, [key], [value.name for value in dense.program.interface.outputs])
    _accuracy(outcome, name, dense, raised, training, test, options)
    layers = convolutions(dense.program)
    natural, zeros = (_zeros(one.program, test) for one in (dense, raised))
    _densities(outcome, name, layers, natural, zeros, raised, training)
    micro, cost = _times(outcome, name, folder, test, options)
    bounds = {layer.name: _layer_row(name, layer, (dense, micro[DENSE]), (direct, micro[DIRECT]), zeros[layer.name]) for layer in layers}
    outcome.rows.extend(bounds.values())
    verdict = "yes" if cost.high < 1 else "no" if cost.low > 1 else "no difference"
    row = {"table": PAYS, "model": name, "time with thresholds / dense": cost.value, "measured": verdict}
    for granularity in GRANULARITIES:
        gain = sum(max(0.0, bound["us"] - bound[f"least us, {granularity}"]) for bound in bounds.values())
        row[f"times as fast at best, {granularity}"] = micro[DENSE] / (micro[DENSE] - gain)
    outcome.rows.append(row)
    outcome.claims.append(Claim(f"{name}: time with thresholds / dense", cost.value, COST, "at most"))


def _read(name: str, options: Options) -> tuple[Any, Images, Images]:
    """The module or the file; training and test images as it takes them."""
    files = [data_file(file) for file in NEEDS[name]]
    module = module_from(RESNET20[0]) if name == "ResNet-20" else None
    source = files[0] if module is None else module.load(files[1], 20)

    def images(file: Path | None, count: int) -> Images:
        assert file is not None
        with np.load(file) as data:
            x, labels = data["x"][:count], data["y"][:count].astype(np.int64)
        plain = np.ascontiguousarray(x.transpose(0, 3, 1, 2)).astype(np.float32)  # ResNet-8 takes 0 to 255
        return plain if module is None else module.prep(x).numpy(), labels

    return source, images(files[-2], QUICK_IMAGES if options.quick else IMAGES), images(files[-1], QUICK_TEST if options.quick else 1017)


def _accuracy(
    outcome: Outcome, name: str, dense: CompileResult, raised: CompileResult, training: Dataset, test: Dataset, options: Options
) -> None:
    """Top-1 of the compiled networks on the test images, and of the programs on the images that the pass has seen."""
    sessions = [load(one.path, threads=options.threads) for one in (dense, raised)]
    compiled = [evaluate(session.run, test, "top1", batch_size=1) for session in sessions]
    in_torch = [_in_torch(one.program, test) for one in (dense, raised)]
    seen = [_in_torch(one.program, training) for one in (dense, raised)]
    for images, (before, after) in (("training", seen), ("test", compiled)):
        change = compare(before, after)
        row: dict[str, Any] = {"table": ACCURACY, "model": name, "images": images, "count": len(before.samples)}
        row |= {"dense": before.value, "fatrelu": after.value, "drop": change.drop, "allowed": MAX_DROP}
        outcome.rows.append(row | {"interval": f"{change.low:.3g} to {change.high:.3g}", "other class": change.changed})
    drop = compare(*compiled).drop
    outcome.claims.append(Claim(f"{name}: drop of top-1 on test images", drop, MAX_DROP, "at most"))
    different = sum(compare(one, other).changed for one, other in zip(in_torch, compiled, strict=True))
    outcome.claims.append(Claim(f"{name}: test images with another class in compiled code than in torch", different, 0, "at most"))


def _in_torch(program: Program, data: Dataset) -> Score:
    watch = Watch(program, {})
    return evaluate(lambda given: {key: value.numpy() for key, value in watch.run_batch(Dataset(given)).items()}, data, "top1")


def _zeros(program: Program, data: Dataset) -> dict[str, Zeros]:
    """What the convolutions of a program read on data, by node name."""
    found = {layer.name: Zeros(layer) for layer in convolutions(program)}
    watching: dict[str, list[Zeros]] = {}
    for layer in convolutions(program):
        watching.setdefault(layer.value.name, []).append(found[layer.name])
    watch = Watch(program, watching)
    for batch in data.batches(128):
        watch.run_batch(batch)
    return found


def _densities(
    outcome: Outcome,
    name: str,
    layers: list[Convolution],
    natural: Mapping[str, Zeros],
    raised: Mapping[str, Zeros],
    compiled: CompileResult,
    training: Dataset,
) -> None:
    for layer in layers:
        row: dict[str, Any] = {"table": "What convolutions read on test images", "model": name, "layer": layer.label}
        for what in ("elements", "zero channels", "empty pixels"):
            shown = "density" if what == "elements" else what
            row |= {shown: natural[layer.name].share(what), f"{shown}, fatrelu": raised[layer.name].share(what)}
        outcome.rows.append(row)
    fitted = _zeros(compiled.program, training.take(1017))
    off = max(abs(fitted[layer.name].share("elements") - raised[layer.name].share("elements")) for layer in layers)
    outcome.claims.append(
        Claim(f"{name}: raised density on test images, largest distance from that on training images", off, NEAR, "at most")
    )


def _times(outcome: Outcome, name: str, folder: Path, test: Dataset, options: Options) -> tuple[dict[str, float], Ratio]:
    """Rows of all engines; their median microseconds, and the time with thresholds divided by the dense one, with its interval."""
    session = load(folder / DENSE, threads=options.threads)
    samples = folder / "samples.npz"
    np.savez(samples, **test.inputs)  # type: ignore[arg-type]  # its stub takes any further name for `allow_pickle`
    inputs = [{"name": spec.name, "shape": spec.shape, "dtype": spec.dtype} for spec in session.inputs]
    shared = contender_arguments(inputs, threads=options.threads, samples=samples)
    contenders = [artifact_contender(folder / label, shared, label) for label in (DENSE, DIRECT, RAISED)]
    contenders.append(peer_contender(PEER, folder / "model.onnx", shared))
    if options.quick:
        comparison = compare_engines(contenders, blocks=6, block_seconds=0.1, warm_up_seconds=0.3)
    else:
        comparison = compare_engines(contenders, blocks=20, block_seconds=0.3, warm_up_seconds=1)
    ratios = {ratio.other: ratio for ratio in comparison.ratios}
    for timing in comparison.timings:
        row: dict[str, Any] = {"table": TIME, "model": name, "engine": timing.label, "median us": timing.median / 1000}
        if timing.label in ratios:
            ratio = ratios[timing.label]
            row |= {"times effc": ratio.value, "interval": f"{ratio.low:.3g} to {ratio.high:.3g}"}
        outcome.rows.append(row | {"settings": timing.settings})
    return {timing.label: timing.median / 1000 for timing in comparison.timings}, ratios[RAISED]


def _layer_row(
    name: str, layer: Convolution, dense: tuple[CompileResult, float], direct: tuple[CompileResult, float], zeros: Zeros
) -> dict[str, Any]:
    """A layer's times, in microseconds, from those of its network, beside the least that a kernel that skips could take."""
    (taken, kernel), (plain, _) = (step_times(result, micro)[layer.source] for result, micro in (dense, direct))
    plain = plain if kernel == WINOGRAD else taken  # one kernel: one time
    row: dict[str, Any] = {"table": "What skipping could gain at the most", "model": name, "layer": layer.label}
    row |= {"kernel": kernel, "us": taken, "direct us": plain}
    row |= {f"left out, {granularity}": zeros.share(granularity) for granularity in GRANULARITIES}
    return row | best_times(taken, plain, {granularity: zeros.share(granularity) for granularity in GRANULARITIES})


def best_times(dense: float, direct: float, left_out: Mapping[str, float]) -> dict[str, float]:
    """The least that a layer takes, by granularity: skipping in the direct kernel, or the dense one where that is no faster."""
    return {f"least us, {granularity}": min(dense, direct * (1 - share)) for granularity, share in left_out.items()}


def step_times(result: CompileResult, micro: float) -> dict[str, tuple[float, str]]:
    """Time and kernel of the steps that multiply, by the user's names: their shares in all steps, of a call of `micro` microseconds."""
    plan, trial = result.manifest.plan, result.trial
    if plan is None or trial is None:
        raise ValueError("the network has no plan, or does not run here: its layers cannot be timed")
    scale = micro / sum(trial.steps)
    pairs = zip(plan.steps, trial.steps, strict=True)
    return {source: (taken * scale, step.family) for step, taken in pairs if step.macs for source in step.sources}


if __name__ == "__main__":
    sys.exit(main(measure))
