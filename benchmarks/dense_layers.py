"""The direct convolution kernels on the 3x3 layers of ResNet-18, as shares of the processor's peak.

A stage's layer is a convolution with bias (its folded batch norm) and ReLU, stride 1. Two programs are compiled for each: one layer, and
several of them in a row. The difference tells what one more layer costs inside a network, where activations stay in the layout of the
kernels: that is the kernel's own share. The program of one layer also pays for the call and for bringing input and output into that layout.
Blocks of the peak alternate with those of the programs (see `fma_peak`). Winograd is switched off, where the compiler has it: fewer
multiplications than the layer has would be no share of anything.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from pathlib import Path
from typing import Any

from benchmarks import fma_peak
from benchmarks.dense_child import answer, in_child
from benchmarks.dense_figures import layer_share, share_of_peak, weighted_share, within
from benchmarks.harness import Claim, Outcome
from effc.runtime.bench import artifact_contender, compare_engines, contender_arguments

__all__ = ["STAGES", "measure_layers"]

TABLE = "3x3 layers of ResNet-18, stride 1, batch 1"
STAGES = {"stage1": (64, 56, 4), "stage2": (128, 28, 3), "stage3": (256, 14, 3), "stage4": (512, 7, 3)}
"""Channels, height and width, and how many such layers the network has."""
HIGH = ("stage1", "stage2", "stage3")  # their maps are large enough for whole tiles of registers
STAGE_BAR, MEAN_BAR = 0.85, 0.80
SEVERAL = 5
BLOCKS, QUICK_BLOCKS, BLOCK_SECONDS, WARM_UP = 24, 8, 0.06, 0.2


def measure_layers(outcome: Outcome, names: list[str], threads: list[int], folder: Path, library: Path, *, quick: bool) -> None:
    """Rows and claims of the named stages, for each number of threads.

    Args:
        outcome: is added to.
        names: of `STAGES`.
        threads: numbers of threads.
        folder: for the artifacts.
        library: the loop of `fma_peak`.
        quick: fewer blocks.
    """
    made = {name: in_child("benchmarks.dense_layers", [name, str(folder)]) for name in names}
    for count in threads:
        ideal, taken = {}, {}
        for name in names:
            row = {"table": TABLE, "layer": name, "threads": count}
            try:
                if "failed" in made[name]:
                    raise RuntimeError(made[name]["failed"])
                found = _layer(name, count, folder, library, made[name], quick=quick)
            except Exception as error:  # noqa: BLE001 - one layer that fails is a missed claim, and the others are still measured
                outcome.rows.append(row | {"failed": str(error)[:300]})
                share = float("nan")
            else:
                outcome.rows.append(row | found)
                share = found["share"]
                ideal[name], taken[name] = share * found["layer us"], found["layer us"]
            if name in HIGH:
                outcome.claims.append(Claim(f"{name}, {_threads(count)}: share of the FMA peak", share, STAGE_BAR, "at least"))
        if set(names) == set(STAGES):
            counts = {name: STAGES[name][2] for name in STAGES}
            mean = weighted_share(counts, ideal, taken) if len(taken) == len(STAGES) else float("nan")
            title = f"3x3 layers of ResNet-18, {_threads(count)}: share of the FMA peak, weighted by time"
            outcome.claims.append(Claim(title, mean, MEAN_BAR, "at least"))


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def _layer(name: str, threads: int, folder: Path, library: Path, made: dict[str, Any], *, quick: bool) -> dict[str, Any]:
    channels, size, _ = STAGES[name]
    shared = contender_arguments(made["inputs"], threads=threads)
    contenders = [
        fma_peak.contender(library, contender_arguments([], threads=threads)),
        artifact_contender(folder / f"{name}_1", shared, "one"),
        artifact_contender(folder / f"{name}_{SEVERAL}", shared, "several"),
    ]
    blocks = QUICK_BLOCKS if quick else BLOCKS
    comparison = compare_engines(contenders, blocks=blocks, block_seconds=BLOCK_SECONDS, warm_up_seconds=WARM_UP)
    peak, one, several = comparison.timings
    bursts, ones, severals = comparison.durations
    work, burst = 2 * (channels * size) ** 2 * 9, fma_peak.operations(peak)
    layer = within(one.median, several.median, SEVERAL)
    return {
        "layer us": layer / 1000,
        "GFLOP/s": work / layer,
        "peak GFLOP/s": burst / peak.percentile5,
        "share": layer_share(work, ones, severals, SEVERAL, burst, bursts),
        "call us": one.median / 1000,
        "share of the call": share_of_peak(work, ones, burst, bursts),
        "kernels": made["kernels"],
        "Winograd": made["winograd"],
    }


def main() -> int:
    """Compile the programs of one stage; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    return answer(lambda: _compiled(options.stage, options.folder))


def _compiled(name: str, folder: Path) -> dict[str, Any]:
    import torch
    from torch import nn

    from effc.compiler import compile_model

    channels, size, _ = STAGES[name]
    has_winograd = "winograd" in inspect.signature(compile_model).parameters
    settings: dict[str, Any] = {"winograd": "off"} if has_winograd else {}
    torch.manual_seed(0)
    for count in (1, SEVERAL):
        network = nn.Sequential(*(part for _ in range(count) for part in (nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU())))
        for layer in network[::2]:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")  # activations keep their size from layer to layer
        image = torch.randn(1, channels, size, size)
        manifest = compile_model(network.eval(), folder / f"{name}_{count}", example_inputs=(image,), **settings).manifest
    specs = [{"name": spec.name, "shape": spec.shape, "dtype": spec.dtype} for spec in manifest.inputs]
    families = dict.fromkeys(step.family for step in manifest.plan.steps if step.macs) if manifest.plan else {manifest.executor: None}
    return {"inputs": specs, "kernels": ", ".join(families), "winograd": "off" if has_winograd else "the compiler has none"}


if __name__ == "__main__":
    sys.exit(main())
