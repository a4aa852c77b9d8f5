"""Two networks on the accelerators that effc describes: a face detector on a street's clip, and ResNet-20 on CIFAR-10's test images.

The same program, dense, without what is zero, and without what did not change. Images of CIFAR-10 have nothing to do with each other: what
`delta` saves there it saves because rectifiers make zeros in both. On the clip, the pass `delta` with a threshold lets less through, at an
error of the outputs that stands beside it: the largest one of all frames, of the largest magnitude of each output.

Beside the two descriptions stand variants of the event-driven one: with memory for all states, and with 16 channels an event besides. What
no machine could do without is the baseline: the products of inputs that are not zero, or changed, at full use of all multipliers. A second
table has memories at the price of large ones.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from benchmarks import clips, resnet20
from benchmarks.harness import Claim, Outcome, data_file
from benchmarks.stream_networks import NETWORKS
from effc.compiler.accelerating import report_on
from effc.compiler.accelerator_counts import Counted, count_program
from effc.cost.accelerator import Accelerator, find_accelerator
from effc.data import Dataset
from effc.frontends import load_program
from effc.ir import Program, run_clip
from effc.passes import Context, Pipeline, parse_passes
from effc.report.accelerator import MODES, AcceleratorReport

__all__ = ["PRICES", "TABLE", "networks_part"]

TABLE = "Networks on accelerators, for one frame or image"
PRICES = "The same with memories at the price of a 1 MB one"
ULTRAFACE, RESNET20 = "UltraFace, street", "ResNet-20, CIFAR-10"
FRAMES, QUICK_FRAMES = 48, 4
IMAGES, QUICK_IMAGES = 512, 32
THRESHOLDS = (0.01, 0.03)
CLEAN = "eliminate-dead,fold-constants,fold-batch-norm"
STATES = 1 << 24  # bytes: all states of UltraFace
CHANNELS = 16
LARGE = 12.5  # pJ a byte: 100 pJ for 64 bits of a 1 MB memory, in the figure that the descriptions name, where 32 KB ones cost 2.5
SKIPPING_GAIN, DELTA_GAIN, TRUNCATED_GAIN = 1.5, 1.25, 4.0  # times fewer cycles than dense, on the same array


def networks_part(quick: bool) -> Outcome:
    """Both networks, and claims about them."""
    outcome = Outcome()
    dense, events = find_accelerator("systolic-32x32"), find_accelerator("event-driven")
    _images(outcome, dense, events, QUICK_IMAGES if quick else IMAGES)
    _clip(outcome, dense, events, QUICK_FRAMES if quick else FRAMES, () if quick else THRESHOLDS)
    keys = [tuple(row.get(name) for name in ("table", "network", "machine")) for row in outcome.rows]
    order = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    outcome.rows.sort(key=lambda row: order[tuple(row.get(name) for name in ("table", "network", "machine"))])
    return outcome


def _images(outcome: Outcome, dense: Accelerator, events: Accelerator, count: int) -> None:
    if not resnet20.is_there():
        outcome.skip(RESNET20, "$EFFC_DATA/cifar10 is missing")
        return
    print("accelerators: ResNet-20 ...", file=sys.stderr)
    program, data = resnet20.program(), resnet20.images(count)
    seen = count_program(program, events, data)
    _, skipping = _both(outcome, RESNET20, program, dense, events, seen)
    gain = skipping.total("dense").cycles / skipping.total("zeros").cycles
    outcome.claims += [
        Claim(f"{RESNET20}: times fewer cycles without zeros, event-driven", gain, SKIPPING_GAIN, "at least"),
        Claim(
            f"{RESNET20}: cycles of delta on unrelated images, of those without zeros",
            skipping.total("delta").cycles / skipping.total("zeros").cycles,
            1.0,
            "at least",
        ),
    ]


def _clip(outcome: Outcome, dense: Accelerator, events: Accelerator, frames: int, thresholds: tuple[float, ...]) -> None:
    network = NETWORKS[0]
    why = network.missing() or clips.missing("street")
    if why:
        outcome.skip(ULTRAFACE, why)
        return
    print("accelerators: UltraFace ...", file=sys.stderr)
    program = load_program(data_file(network.needs[0]), check_import=False)
    data = Dataset({program.interface.frame_inputs[0].name: network.prepared(clips.clip("street", frames))})
    seen = count_program(program, events, data)
    _, small = _both(outcome, ULTRAFACE, program, dense, events, seen)
    roomy = _with_memory(events)
    large = report_on(program, roomy, seen)
    _row(outcome, ULTRAFACE, large, "delta")
    blocks = roomy.model_copy(
        update={
            "name": f"{roomy.name}, {CHANNELS} channels an event",
            "skipping": events.skipping.model_copy(update={"zeros": CHANNELS, "changes": CHANNELS}),
        }
    )
    wide = report_on(program, blocks, count_program(program, blocks, data))
    for mode in MODES:
        _row(outcome, ULTRAFACE, wide, mode)
    for machine, modes in ((dense, ("dense",)), (events, ("dense", "zeros")), (roomy, ("delta",))):
        for mode in modes:
            _row(outcome, ULTRAFACE, report_on(program, _at_large_price(machine), seen), mode, table=PRICES)
    for threshold in thresholds:
        truncated = _truncated(outcome, program, data, (events, roomy), threshold)
        if threshold == THRESHOLDS[0]:
            name = f"{ULTRAFACE}: times fewer cycles, delta{{threshold={threshold}}}, all states on the chip"
            outcome.claims.append(Claim(name, _gain(truncated, "delta"), TRUNCATED_GAIN, "at least"))
    outcome.claims += [
        Claim(
            f"{ULTRAFACE}: times fewer cycles for unchanged inputs, all states on the chip", _gain(large, "delta"), DELTA_GAIN, "at least"
        ),
        Claim(f"{ULTRAFACE}: DRAM bytes of delta, of dense ones, states not on the chip", _bytes(small), 1.0, "at least"),
    ]


def _truncated(outcome: Outcome, program: Program, data: Dataset, machines: Sequence[Accelerator], threshold: float) -> AcceleratorReport:
    """After the pass `delta` with one threshold for all layers; the report on the last machine."""
    print(f"accelerators: UltraFace, threshold {threshold} ...", file=sys.stderr)
    passes = parse_passes(f"{CLEAN},delta{{mode=truncate,threshold={threshold},dense=never}}")
    stream = Pipeline(passes)(program, Context(fit=data))
    inputs = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in data.inputs.items()}
    with torch.no_grad():
        whole, kept = run_clip(program, inputs), run_clip(stream, inputs)
    error = max(float((whole[name] - kept[name]).abs().max() / whole[name].abs().max()) for name in whole)
    seen = count_program(stream, machines[0], data)
    reports = [report_on(stream, machine, seen) for machine in machines]
    for report in reports:
        _row(outcome, ULTRAFACE, report, "delta", f"threshold {threshold}", f"{error:.1%}")
    dear = report_on(stream, _at_large_price(machines[-1]), seen)
    _row(outcome, ULTRAFACE, dear, "delta", f"threshold {threshold}", f"{error:.1%}", table=PRICES)
    return reports[-1]


def _both(
    outcome: Outcome, network: str, program: Program, dense: Accelerator, events: Accelerator, seen: Counted
) -> tuple[AcceleratorReport, AcceleratorReport]:
    array, skipping = report_on(program, dense, seen), report_on(program, events, seen)
    for report in (array, skipping):
        for mode in MODES:
            _row(outcome, network, report, mode)
    for mode in MODES:
        macs = skipping.ideal(mode)
        row: dict[str, Any] = {"table": TABLE, "network": network, "machine": "(no machine could do less)", "mode": MODES[mode]}
        outcome.rows.append({**row, "cycles": round(macs / events.multipliers), "MACs": round(macs), "utilisation": "100%"})
    return array, skipping


def _row(
    outcome: Outcome, network: str, report: AcceleratorReport, mode: str, passes: str = "", error: str = "", table: str = TABLE
) -> None:
    cost, machine = report.total(mode), report.accelerator["name"]
    outcome.rows.append(
        {
            "table": table,
            "network": network,
            "machine": machine,
            "mode": f"{MODES[mode]}{', ' if passes else ''}{passes}",
            "cycles": round(cost.cycles),
            "MACs": round(cost.macs),
            "utilisation": f"{cost.utilisation:.1%}",
            "SRAM kB": round(cost.sram_bytes / 1000),
            "DRAM kB": round(cost.dram_bytes / 1000),
            "energy µJ": round(cost.energy.total / 1e6, 1),
            "of it SRAM": f"{cost.energy.memory / cost.energy.total:.0%}",
            "of it DRAM": f"{cost.energy.outside / cost.energy.total:.0%}",
            "error": error,
        }
    )


def _with_memory(events: Accelerator) -> Accelerator:
    """The event-driven array with memory for the states of UltraFace."""
    sram = events.sram.model_copy(update={"outputs": STATES})
    return events.model_copy(update={"name": f"{events.name}, {STATES >> 20} MiB for states", "sram": sram})


def _at_large_price(accelerator: Accelerator) -> Accelerator:
    energy = accelerator.energy.model_copy(update={"sram_read": LARGE, "sram_write": LARGE})
    return accelerator.model_copy(update={"name": f"{accelerator.name}, SRAM at {LARGE} pJ a byte", "energy": energy})


def _gain(report: AcceleratorReport, mode: str) -> float:
    return report.total("dense").cycles / report.total(mode).cycles


def _bytes(report: AcceleratorReport) -> float:
    return report.total("delta").dram_bytes / report.total("dense").dram_bytes
