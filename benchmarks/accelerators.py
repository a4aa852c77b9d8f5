"""The model of accelerators, `effc model-npu`: beside SCALE-Sim, beside counting by hand, and what two networks cost on two arrays.

Dense cycles are compared with those of SCALE-Sim for all layers of ResNet-18, three dataflows and two arrays; where `scalesim` is not
installed that part is skipped. What the array computes, bit for bit, and what stuck multipliers do to a network, is
`benchmarks.accelerator_faults`, which runs as a part of this. All of it takes about half an hour; `--part NAME` runs one part, and
`benchmarks.accelerators_page --from FILE ...` joins what parts printed.

Nothing here is timed: cycles and energy are the model's, from counts that are exact and prices that the descriptions name. What the model
leaves out stands in docs/accelerators.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import NamedTuple

from benchmarks import accelerator_networks
from benchmarks.accelerator_counts import counts_part
from benchmarks.accelerator_cycles import cycles_part
from benchmarks.accelerator_faults import faults_part, functional_part
from benchmarks.accelerator_networks import networks_part
from benchmarks.harness import Options, Outcome, main

__all__ = ["PARTS", "SHORT", "Part", "measure"]

SHORT = (accelerator_networks.TABLE,)  # of docs/results.md; docs/accelerators.md has all


class Part(NamedTuple):
    """What gives rows and claims, told whether the run is quick; and how many claims a full run makes that skips nothing."""

    run: Callable[[bool], Outcome]
    claims: int


PARTS = {
    "counts": Part(counts_part, 1),
    "networks": Part(networks_part, 5),
    "cycles": Part(cycles_part, 6),
    "functional": Part(functional_part, 2),
    "faults": Part(faults_part, 4),
}


def measure(options: Options) -> Outcome:
    """All parts, or those that were asked for, one after the other."""
    outcome = Outcome()
    for name, part in PARTS.items():
        if name in (options.more.get("part") or PARTS):
            found = part.run(options.quick)
            outcome.rows += found.rows
            outcome.claims += found.claims
    return outcome


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--part", action="append", choices=PARTS, help="only this part; may be given more than once")


if __name__ == "__main__":
    sys.exit(main(measure, add_arguments=add_arguments))
