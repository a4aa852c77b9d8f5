"""What a campaign found, as plain data: the one thing that every report is written from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from effc.faultsim.statistics.estimate import Estimate

__all__ = ["SHARES", "Cell", "FaultRow", "GroupSummary", "Summary"]

SHARES = ("masked", "non_critical", "critical", "sdc1", "sdc5", "sdc10", "sdc20", "due")


@dataclass(frozen=True)
class GroupSummary:
    """One group of injections: a bit error rate, a stratum, a replayed list.

    Attributes:
        name: `BER 1e-06`, `bit 30`, `all`.
        rate: flipped bits / bits of the population; None for groups of single faults.
        population: bits it draws from.
        injections: experiments made. `empty`: those without a fault. `flips`, `silent`: bits changed, and reached without a change, in all.
        inferences: of all injections together. They are not independent trials.
        shares: of inferences, by name (SHARES), each with the interval over injections.
        accuracy: mean over injections; None without labels. `accuracy_min`, `accuracy_p5`: least, and 5th percentile, over injections.
        sdc1_of_correct: SDC-1 among the inferences that the golden run got right (the other usual definition); None without labels.
    """

    name: str
    rate: float | None
    population: int
    injections: int
    empty: int
    flips: int
    silent: int
    inferences: int
    shares: Mapping[str, Estimate]
    accuracy: Estimate | None
    accuracy_min: float | None
    accuracy_p5: float | None
    sdc1_of_correct: Estimate | None


@dataclass(frozen=True)
class Cell:
    """Critical share at one place: a layer (`bit` None), a bit (`layer` None), or both. Only injections of one fault have a place."""

    layer: str | None
    bit: int | None
    population: int
    injections: int
    critical: Estimate


@dataclass(frozen=True)
class FaultRow:
    """One fault and what it did, in the words of the published lists.

    Attributes:
        injection: its number. `layer`: the module, as the user names it. `tensor`: the stored tensor or value, in full.
        index: the element's position in the tensor. `bit`: 0 is the least significant one.
        before, after: the element's value; NaN both where it has none of its own, as a value on the way or a register of an array.
    """

    injection: int
    layer: str
    tensor: str
    index: tuple[int, ...]
    bit: int
    inferences: int
    masked: int
    non_critical: int
    critical: int
    before: float
    after: float

    @property
    def has_values(self) -> bool:
        """Whether the values are known."""
        return not (math.isnan(self.before) and math.isnan(self.after))


@dataclass(frozen=True)
class Summary:
    """A campaign's results.

    Attributes:
        campaign: the identity: spec, hashes of model and data, batch, threads; as in campaign.json.
        model: name to show. `view`: number view. `effect`, `duration`: the fault.
        population: bits that faults were drawn from; `sites`: tensors or values.
        samples: images (or other samples) of the data set that were used.
        classes: whether outputs are scores of classes, so that predictions mean something.
        golden_accuracy: of the fault-free run on all samples, with the interval over samples; None without labels.
        groups: in the campaign's order.
        overall: shares over the whole population, weighted by strata, and `accuracy` where there are labels; empty for sweeps over rates.
        layers, bits, cells: critical share by layer, by bit, by both. Empty unless injections are single faults.
        worst: faults with the largest critical share, worst first.
        complete: every injection was made. `planned`, `done`: injections.
        notes: what a reader must know, a sentence each.
    """

    campaign: Mapping[str, Any]
    model: str
    view: str
    effect: str
    duration: str
    population: int
    sites: int
    samples: int
    classes: bool
    golden_accuracy: Estimate | None
    groups: tuple[GroupSummary, ...]
    overall: Mapping[str, Estimate]
    layers: tuple[Cell, ...]
    bits: tuple[Cell, ...]
    cells: tuple[Cell, ...]
    worst: tuple[FaultRow, ...]
    complete: bool
    planned: int
    done: int
    notes: tuple[str, ...] = ()
