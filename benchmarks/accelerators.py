"""The model of accelerators, `effc model-npu`: beside SCALE-Sim, beside counting by hand, and what two networks cost on two arrays.

Dense cycles are compared with those of SCALE-Sim for all layers of ResNet-18, three dataflows and two arrays; where `scalesim` is not
installed that part is skipped. What the array computes, bit for bit, and what stuck multipliers do to a network, is
`benchmarks.accelerator_faults`, which runs as a part of this. All of it takes about half an hour.

Nothing here is timed: cycles and energy are the model's, from counts that are exact and prices that the descriptions name. What the model
leaves out stands in docs/accelerators.md.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from benchmarks.accelerator_counts import counts_part
from benchmarks.accelerator_cycles import cycles_part
from benchmarks.accelerator_faults import faults_part, functional_part
from benchmarks.accelerator_networks import networks_part
from benchmarks.harness import Options, Outcome, main

__all__ = ["PARTS", "measure"]

PARTS: tuple[Callable[[bool], Outcome], ...] = (counts_part, networks_part, cycles_part, functional_part, faults_part)
"""Each takes whether the run is quick, and gives its rows and claims."""


def measure(options: Options) -> Outcome:
    """All parts, one after the other."""
    outcome = Outcome()
    for part in PARTS:
        found = part(options.quick)
        outcome.rows += found.rows
        outcome.claims += found.claims
    return outcome


if __name__ == "__main__":
    sys.exit(main(measure))
