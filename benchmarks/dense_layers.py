"""The direct convolution kernels on the 3x3 layers of ResNet-18, as shares of the processor's peak.

A stage's layer is a convolution with bias (its folded batch norm) and ReLU, stride 1. Two programs are compiled for each: one layer, and
several of them in a row. The difference tells what one more layer costs inside a network, where activations stay in the layout of the
kernels: that is the kernel's own share. The program of one layer also pays for the call and for bringing input and output into that layout.
Winograd is switched off: fewer multiplications than the layer has would be no share of anything. What it gains where the compiler chooses
it is measured apart, in the same way: `Winograd us` is the layer's time then, `gain` the direct kernel's time divided by it.

Wide vectors under load slow a processor's clock down within milliseconds, and it recovers as fast. So each program's call is followed at
once, on the same processor, by a burst of the peak (`layer_worker`), and the share is that of the peak at that clock: the part of the
multiply-adds that could have been started which were. What the processor's peak is when it is rested, and the share of that, stand beside.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path
from typing import Any

from benchmarks.dense_child import answer, in_child
from benchmarks.dense_figures import layer_share, share_of_peak, weighted_share, within
from benchmarks.harness import Claim, Outcome

__all__ = ["STAGES", "TABLE", "measure_layers", "row"]

TABLE = "3x3 layers of ResNet-18, stride 1, batch 1"
STAGES = {"stage1": (64, 56, 4), "stage2": (128, 28, 3), "stage3": (256, 14, 3), "stage4": (512, 7, 3)}
"""Channels, height and width, and how many such layers the network has."""
HIGH = ("stage1", "stage2", "stage3")  # their maps are large enough for whole tiles of registers
STAGE_BAR, MEAN_BAR = 0.85, 0.80
AT_ITS_CLOCK, RESTED = "at the clock of the moment", "of rested cores"
SEVERAL = 5
OPTIONS = ("off", "auto")  # of Winograd
ROUNDS, QUICK_ROUNDS = 200, 40


def measure_layers(outcome: Outcome, names: list[str], threads: list[int], folder: Path, library: Path, *, quick: bool) -> None:
    """Rows and claims of the named stages, for each number of threads.

    Args:
        outcome: is added to.
        names: of `STAGES`.
        threads: numbers of threads.
        folder: for the artifacts.
        library: the loop of `fma_peak`.
        quick: fewer rounds.
    """
    made = {name: in_child("benchmarks.dense_layers", [name, str(folder)]) for name in names}
    for count in threads:
        ideal, rested, taken = {}, {}, {}
        for name in names:
            head = {"table": TABLE, "layer": name, "threads": count}
            try:
                if "failed" in made[name]:
                    raise RuntimeError(made[name]["failed"])
                found = _layer(name, count, folder, library, quick=quick)
            except Exception as error:  # noqa: BLE001 - one layer that fails is a missed claim, and the others are still measured
                outcome.rows.append(head | {"failed": str(error)[:300]})
                share = float("nan")
            else:
                outcome.rows.append(head | found | {"kernels": made[name]["kernels"]})
                share = found["share"]
                ideal[name], taken[name] = share * found["layer us"], found["layer us"]
                rested[name] = found["share of it"] * found["layer us"]
            if name in HIGH:
                strict = rested[name] / taken[name] if name in rested else float("nan")
                for which, value in ((AT_ITS_CLOCK, share), (RESTED, strict)):
                    outcome.claims.append(Claim(f"{name}, {_threads(count)}: share of the FMA peak {which}", value, STAGE_BAR, "at least"))
        if set(names) == set(STAGES):
            counts = {name: STAGES[name][2] for name in STAGES}
            for which, peak in ((AT_ITS_CLOCK, ideal), (RESTED, rested)):
                mean = weighted_share(counts, peak, taken) if len(taken) == len(STAGES) else float("nan")
                title = f"3x3 layers of ResNet-18, {_threads(count)}: share of the FMA peak {which}, weighted by time"
                outcome.claims.append(Claim(title, mean, MEAN_BAR, "at least"))


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def _layer(name: str, threads: int, folder: Path, library: Path, *, quick: bool) -> dict[str, Any]:
    rounds = str(QUICK_ROUNDS if quick else ROUNDS)
    told = []
    for option in OPTIONS:
        artifacts = [str(folder / f"{name}_{option}_{count}") for count in (1, SEVERAL)]
        told.append(in_child("benchmarks.layer_worker", [*artifacts, str(library), str(threads), rounds]))
        if "failed" in told[-1]:
            raise RuntimeError(told[-1]["failed"])
    direct, chosen = told
    found = row(name, direct)
    fast = within(_middle(chosen, "one"), _middle(chosen, "several"), SEVERAL) / 1000
    return found | {"Winograd us": fast, "gain": found["layer us"] / fast}


def row(name: str, told: dict[str, Any]) -> dict[str, Any]:
    """A stage's figures from the durations that `layer_worker` told, in nanoseconds."""
    channels, size, _ = STAGES[name]
    work, burst = 2 * (channels * size) ** 2 * 9, told["operations"]
    ones, severals, bursts = ([[value] for value in told[key]] for key in ("one", "several", "burst"))
    layer = within(_middle(told, "one"), _middle(told, "several"), SEVERAL)
    return {
        "layer us": layer / 1000,
        "GFLOP/s": work / layer,
        "peak GFLOP/s": burst / _middle(told, "burst"),
        "share": layer_share(work, ones, severals, SEVERAL, burst, bursts),
        "rested peak": burst / told["rested"],
        "share of it": work / layer / (burst / told["rested"]),
        "call us": _middle(told, "one") / 1000,
        "share of the call": share_of_peak(work, ones, burst, bursts),
    }


def _middle(told: dict[str, Any], key: str) -> float:
    return float(sorted(told[key])[len(told[key]) // 2])


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
    families: dict[str, str] = {}
    for option, count in itertools.product(OPTIONS, (1, SEVERAL)):
        torch.manual_seed(0)
        network = nn.Sequential(*(part for _ in range(count) for part in (nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU())))
        for layer in network[::2]:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")  # activations keep their size from layer to layer
        image = torch.randn(1, channels, size, size)
        out = folder / f"{name}_{option}_{count}"
        plan = compile_model(network.eval(), out, example_inputs=(image,), winograd=option).manifest.plan
        families[option] = ", ".join(dict.fromkeys(step.family for step in plan.steps if step.macs)) if plan else "virtual machine"
    return {"kernels": " / ".join(families.values())}


if __name__ == "__main__":
    sys.exit(main())
