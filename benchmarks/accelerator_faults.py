"""The MAC array bit for bit: its results beside effc's integer operators, its faults beside a simulation of every multiplier, and what
stuck multipliers do to a network.

1. *Functional*: the int8 networks of MLPerf Tiny and ResNet-20 (quantised after training for the array), sums split into the array's folds
   over K, by events alone (zeros skipped), and by changes alone (delta). How many outputs differ from effc's integer operators: none may.
   Which multiplier of a fold does what does not show in a sum; that is the second part. Executed work is compared with the cost model's.
2. *Patterns*: for small layers (padded, strided, grouped, depthwise, a matrix product; sizes that the array does not fit) and all
   dataflows, every multiplier stuck in turn: how many sums differ from a simulation of every multiplier (`array_by_multiplier`): none may.
3. *Stuck multipliers* in systolic-32x32 under ResNet-20 on CIFAR-10: the share of inferences whose top-1 class changes, for single stuck
   bits of the product and of the partial sum, unprotected and with Ranger; beside an array whose answers are random, and a fault that
   does nothing.

`benchmarks.accelerators` shows these with the rest; alone: `python -m benchmarks.accelerator_faults`.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.accelerator_patterns import DATAFLOWS, STUCK, patterns_part
from benchmarks.harness import Claim, Options, Outcome, data_file, main
from benchmarks.resnet20 import images, is_there
from benchmarks.resnet20 import program as resnet20
from effc.compiler.accelerator_counts import count_program
from effc.cost.accelerator.description import find_accelerator
from effc.cost.accelerator.layers import products_of
from effc.data import Dataset
from effc.evaluate import evaluate
from effc.faultsim import Campaign, run_campaign, spec_of, summarise
from effc.faultsim.accelerator import MODES, ArraySubject, for_array, run_on_array
from effc.faultsim.accelerator.functional import Mode, Tally
from effc.faultsim.accelerator.mapping import Dataflow
from effc.faultsim.accelerator.mapping import Mapping as Places
from effc.faultsim.places import tried
from effc.faultsim.statistics import Estimate, Stratum, mean_interval, stratified
from effc.faultsim.workers import torch_threads
from effc.ir import Program
from effc.ir.arrays import to_numpy, to_torch

__all__ = ["BY_BIT", "FUNCTIONAL", "STUCK_MULTIPLIERS", "faults_part", "functional_part", "measure"]

FUNCTIONAL = "The array beside effc's integer operators"
STUCK_MULTIPLIERS = "Single stuck multipliers in systolic-32x32, ResNet-20 in int8 on CIFAR-10"
BY_BIT = "SDC-1 by bit"

_INT8 = ("ad_autoencoder", "kws", "resnet8", "vww")
_ARRAY = "systolic-32x32"
_CALIBRATION = 512  # training images
_FAULTS, _QUICK_FAULTS = 192, 6  # of each register and polarity
_IMAGES, _QUICK_TEST = 16, 96  # that a fault is tried on; test images of a quick run
_LEAST, _LEAST_QUICK = 0.1, 0.01  # lower ends; a quick run has few faults, so that its intervals are wide
_BITS = ((0, 7), (8, 11), (12, 15), (16, 23), (24, 31))
_REGISTERS = {"pe-product": 16, "pe-sum": 32}
_PROTECTIONS = {"unprotected": "", "Ranger": "ranger"}


def measure(options: Options) -> Outcome:
    """See the module's docstring."""
    first, second = functional_part(options.quick), faults_part(options.quick)
    return Outcome(first.rows + second.rows, first.claims + second.claims)


# ---- what the array computes -----------------------------------------------------------------------------------------------------


def functional_part(quick: bool) -> Outcome:
    """The first part."""
    outcome, wrong, compared, apart = Outcome(), 0, 0, 0
    with torch_threads(1):
        for name, program, batches in _networks(quick, outcome):
            truth = [program.call(*batch) for batch in batches]
            dense = 0
            ways: list[tuple[Mode, Dataflow]] = [(MODES[0], flow) for flow in DATAFLOWS[:3]]
            for mode, dataflow in [*ways, *((mode, DATAFLOWS[3]) for mode in MODES[1:])]:
                tally = Tally()
                found = run_on_array(program, Places(32, 32, dataflow, 1 if dataflow == "event-driven" else None), mode, batches, tally)
                differing = sum(_differing(new, old) for new, old in zip(found, truth, strict=True))
                numbers = sum(one.numel() for outputs in truth for one in outputs)
                work = sum(tally.multiplications.values())
                if mode == "zero-skipping":
                    apart += _apart(program, batches, tally)
                dense = dense or work
                wrong, compared = wrong + differing, compared + numbers
                outcome.rows.append(
                    {
                        "table": FUNCTIONAL,
                        "model": name,
                        "way": mode,
                        "array": dataflow,
                        "outputs": numbers,
                        "differing": differing,
                        "multiplications": work,
                        "of the dense ones": work / dense,
                    }
                )
    if compared:
        outcome.claims.append(Claim("outputs of the array that differ from the integer reference in any bit", wrong, 0, "at most"))
        name = "layers whose multiplications or busiest core's cycles, as executed without zeros, are not those of the cost model"
        outcome.claims.append(Claim(name, apart, 0, "at most"))
    return outcome


def _apart(program: Program, batches: list[list[Tensor]], tally: Tally) -> int:
    """Layers of which the cost model, which executes nothing, counts other events than were executed."""
    description = find_accelerator("event-driven").model_copy(update={"rows": 32, "columns": 32})
    frames = Dataset({program.interface.inputs[0].name: torch.cat([batch[0] for batch in batches]).numpy()})
    macs, cycles = Counter[str](), Counter[str]()
    for product, counts in zip(products_of(program), count_program(program, description, frames).layers, strict=True):
        macs[product.name] += round(len(batches) * counts.events["zeros"].macs)
        cycles[product.name] += round(len(batches) * counts.events["zeros"].cycles)
    return sum((macs[name], cycles[name]) != (tally.multiplications[name], tally.cycles[name]) for name in macs)


def _networks(quick: bool, outcome: Outcome) -> Iterator[tuple[str, Program, list[list[Tensor]]]]:
    """Name, integer program, and frames: images where there are some, else numbers of which a tenth changes from frame to frame."""
    from effc.frontends import load_program

    count = 2 if quick else 8
    for name in _INT8[1:3] if quick else _INT8:
        path = data_file(f"onnx/mlperf_tiny_{name}_int8qdq.onnx")
        if path is None:
            outcome.skip(name, "its file is missing in $EFFC_DATA")
            continue
        program = load_program(path, check_import=False)
        yield f"{name} (int8 as imported)", program, [[frame] for frame in _frames(program, count)]
    if not is_there():
        outcome.skip("ResNet-20", "cifar10/ is missing in $EFFC_DATA")
        return
    quantised = for_array(resnet20(), images(_CALIBRATION, "train"))
    pixels = torch.from_numpy(images(count).inputs["x"])
    yield "ResNet-20 (quantised for the array)", quantised, [[pixels[index : index + 1]] for index in range(count)]


def _frames(program: Program, count: int) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    shape = [1, *map(int, program.interface.inputs[0].shape[1:])]
    clip = [torch.rand(shape, generator=draw) * 255]
    while len(clip) < count:
        clip.append(torch.where(torch.rand(shape, generator=draw) < 0.1, torch.rand(shape, generator=draw) * 255, clip[-1]))
    return clip


def _differing(new: tuple[Tensor, ...], old: tuple[Tensor, ...]) -> int:
    """Numbers that are not the same bits."""
    return sum(int((a.view(torch.int32) != b.view(torch.int32)).sum()) for a, b in zip(new, old, strict=True))


# ---- what stuck multipliers do -----------------------------------------------------------------------------------------------------


def faults_part(quick: bool) -> Outcome:
    """The second and the third part."""
    outcome = Outcome()
    with torch_threads(1):
        patterns_part(outcome, quick)
        if not is_there():
            outcome.skip("ResNet-20", "cifar10/ is missing in $EFFC_DATA")
            return outcome
        with tempfile.TemporaryDirectory() as work:
            _stuck(outcome, quick, Path(work))
    return outcome


def _stuck(outcome: Outcome, quick: bool, work: Path) -> None:
    test = images(_QUICK_TEST if quick else None)
    calibration, unquantised = images(_CALIBRATION, "train"), _accuracy(resnet20(), test)
    totals: dict[str, Estimate] = {}
    for name, spec in list(_PROTECTIONS.items())[: 1 if quick else None]:
        subject = ArraySubject(for_array(_protected(spec), calibration), "resnet20", find_accelerator(_ARRAY))
        found: dict[str, Campaign] = {}
        strata: list[Stratum] = []
        seconds, faults = 0.0, _QUICK_FAULTS if quick else _FAULTS
        for register, bits in _REGISTERS.items():
            for effect in STUCK:
                start = time.perf_counter()
                values = {"where": register, "effect": effect, "faults": faults, "images_per_fault": _IMAGES, "accelerator": _ARRAY}
                campaign = run_campaign(subject, test, spec_of(values), work / f"{name}-{register}-{effect}")
                seconds += time.perf_counter() - start
                found[f"{register} {effect}"] = campaign
                summary = summarise(campaign)
                shares = np.array([record.sdc1 / record.inferences for record in campaign.results[0]], np.float64)
                strata.append(Stratum(32 * 32 * bits, shares))
                outcome.rows.append(_row(name, register, effect, faults, summary.overall, summary.groups[0].silent))
        totals[name] = stratified(strata, 0.95)
        clean = _accuracy(subject.program, test)
        outcome.rows.append(
            {
                "table": STUCK_MULTIPLIERS,
                "network": name,
                "stuck": "any bit of both",
                "faults": 4 * faults,
                "SDC-1": _shown(totals[name]),
                "seconds": seconds,
                "without faults": f"{clean:.2%} (float: {unquantised:.2%})",
            }
        )
        outcome.rows += _by_bit(name, found)
        if not spec:
            lost = 100 * (unquantised - clean)
            outcome.claims.append(Claim("points of accuracy that int8 on the array costs ResNet-20, on test images", lost, 1.0, "at most"))
    outcome.rows.append(
        {"table": STUCK_MULTIPLIERS, "network": "random answers (trivial)", "SDC-1": "90 % (of ten classes)", "accuracy": "10 %"}
    )
    outcome.rows.append({"table": STUCK_MULTIPLIERS, "network": "a fault that does nothing (trivial)", "SDC-1": "0 %"})
    least = min(one.low for one in totals.values())
    outcome.claims.append(
        Claim(
            "lower end of the 95 % interval of SDC-1 of single stuck multipliers, ResNet-20 (0 for faults that do nothing)",
            least,
            _LEAST_QUICK if quick else _LEAST,
            "at least",
        )
    )


def _row(name: str, register: str, effect: str, faults: int, overall: Any, silent: int) -> dict[str, Any]:
    return {
        "table": STUCK_MULTIPLIERS,
        "network": name,
        "stuck": f"{register} {effect}",
        "faults": faults,
        "silent faults": silent,
        "SDC-1": _shown(overall["sdc1"]),
        "SDC-5": _shown(overall["sdc5"]),
        "masked": _shown(overall["masked"]),
        "DUE": _shown(overall["due"]),
        "accuracy": _shown(overall["accuracy"]),
    }


def _by_bit(name: str, found: dict[str, Campaign]) -> Iterator[dict[str, Any]]:
    """SDC-1 of neighbouring bits together: single ones have few faults each."""
    for low, high in _BITS:
        row: dict[str, Any] = {"table": f"{BY_BIT}, {name}", "bits": f"{low} to {high}"}
        for what, campaign in found.items():
            inside = [one.record for one in tried(campaign) if low <= int(one.injection.bits[0]) <= high]
            if inside:
                share = mean_interval(np.array([record.sdc1 / record.inferences for record in inside], np.float64), 0.95)
                row[what] = f"{_shown(share)} of {len(inside)}"
        yield row


def _shown(estimate: Estimate) -> str:
    return f"{estimate.value:.1%} ({estimate.low:.1%} to {estimate.high:.1%})"


def _accuracy(program: Program, data: Dataset) -> float:
    def run(given: Mapping[str, Any]) -> dict[str, Any]:
        return {name: to_numpy(value) for name, value in program.run({name: to_torch(one) for name, one in given.items()}).items()}

    return evaluate(run, data, "top1").value


def _protected(spec: str) -> Program:
    if not spec:
        return resnet20()
    from effc.passes import Context, Pipeline, parse_passes

    return Pipeline(parse_passes(spec))(resnet20(), Context(images(_CALIBRATION, "train")))


if __name__ == "__main__":
    sys.exit(main(measure))
