"""What the model of an accelerator says of a network, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

__all__ = ["MODES", "AcceleratorLayer", "AcceleratorReport", "EnergyParts", "ModeCost", "amount", "total_cost"]

MODES = {"dense": "dense", "zeros": "zero-skipping", "delta": "delta"}
"""Ways to run a network, and their names: all inputs, those that are not zero, those that changed since the frame before."""


@dataclass(frozen=True)
class EnergyParts:
    """Picojoules: of products, of the memories beside the array, of DRAM, of lists of events, of time."""

    products: float
    memory: float
    outside: float
    lists: float
    idle: float

    @property
    def total(self) -> float:
        return self.products + self.memory + self.outside + self.lists + self.idle


@dataclass(frozen=True)
class ModeCost:
    """What a layer, or a network, costs in a call.

    Attributes:
        cycles: the largest of the next three; of a network the sum over its layers.
        computing, listing, waiting: cycles of the array, of comparing and listing inputs, of DRAM.
        macs: multiply-accumulates that are done.
        utilisation: macs of all that the array could do in `cycles`.
        sram_bytes: read from and written to the memories beside the array. dram_bytes: to and from DRAM.
        energy: picojoules.
    """

    cycles: float
    computing: float
    listing: float
    waiting: float
    macs: float
    utilisation: float
    sram_bytes: float
    dram_bytes: float
    energy: EnergyParts

    @property
    def bound_by(self) -> str:
        """What a layer's cycles are of: the array, listing, DRAM."""
        parts = {"array": self.computing, "listing": self.listing, "DRAM": self.waiting}
        return max(parts, key=lambda part: parts[part])


@dataclass(frozen=True)
class AcceleratorLayer:
    """One product.

    Attributes:
        name, op: the user's name, the operator.
        groups, rows, depth, columns: that many products of M x K with K x N.
        macs: of all inputs.
        nonzero, changed: shares of its inputs on the data; None where nothing is known.
        ideal: multiply-accumulates of single inputs that are not zero, and of those that changed: what a machine without costs of its own
            would do.
        costs: by mode.
        balance: by mode of an event-driven array, the mean core's work over the busiest one's, in (0, 1].
    """

    name: str
    op: str
    groups: int
    rows: int
    depth: int
    columns: int
    macs: int
    nonzero: float | None
    changed: float | None
    ideal: dict[str, float]
    costs: dict[str, ModeCost]
    balance: dict[str, float]


@dataclass(frozen=True)
class AcceleratorReport:
    """All of it.

    Attributes:
        title: the model. accelerator: the description, as in its file. multipliers: of its array.
        passes: that ran.
        samples: calls that were looked at; 0 without data.
        layers: in execution order.
        notes: what a user should know of how these numbers came about.
        before: the same of the program that the passes were given; None where none ran.
    """

    title: str
    accelerator: dict[str, Any]
    multipliers: int
    passes: tuple[str, ...]
    samples: int
    layers: tuple[AcceleratorLayer, ...]
    notes: tuple[str, ...] = ()
    before: AcceleratorReport | None = None

    @property
    def modes(self) -> tuple[str, ...]:
        return tuple(self.layers[0].costs) if self.layers else ("dense",)

    @property
    def own_modes(self) -> tuple[str, ...]:
        """`dense`, and those that this array has: any layer costs something else in them."""
        differ = [mode for mode in self.modes if any(layer.costs[mode] != layer.costs["dense"] for layer in self.layers)]
        return ("dense", *differ)

    @property
    def programs(self) -> dict[str, AcceleratorReport]:
        """What the passes were given and what they made, by name; this one alone where none ran."""
        return {"": self} if self.before is None else {"source": self.before, "rewritten": self}

    @property
    def clock_hz(self) -> float:
        return float(self.accelerator["clock-hz"])

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)

    def total(self, mode: str) -> ModeCost:
        """Of all layers."""
        return total_cost([layer.costs[mode] for layer in self.layers], self.multipliers)

    def ideal(self, mode: str) -> float:
        """Multiply-accumulates of all layers that no machine could save."""
        return sum(layer.ideal.get(mode, layer.macs) for layer in self.layers)

    def as_json(self) -> dict[str, Any]:
        layers = [_with_total_energy(asdict(layer)) for layer in self.layers]
        totals = {mode: {**asdict(self.total(mode)), "energy_pj": self.total(mode).energy.total} for mode in self.modes}
        before = None if self.before is None else self.before.as_json()
        return {**asdict(self), "layers": layers, "macs": self.macs, "total": totals, "before": before}


def amount(value: float) -> str:
    """A number that may be small or large: three digits that count, or all before the point."""
    return f"{value:,.0f}" if value == 0 or abs(value) >= 99.95 else f"{value:#.3g}"


def _with_total_energy(layer: dict[str, Any]) -> dict[str, Any]:
    costs = {mode: {**cost, "energy_pj": sum(cost["energy"].values())} for mode, cost in layer["costs"].items()}
    return {**layer, "costs": costs}


def total_cost(costs: Sequence[ModeCost], multipliers: int) -> ModeCost:
    """The sum over layers, one after the other."""
    cycles, macs = sum(one.cycles for one in costs), sum(one.macs for one in costs)
    parts = [sum(getattr(one.energy, part.name) for one in costs) for part in fields(EnergyParts)]
    return ModeCost(
        cycles=cycles,
        computing=sum(one.computing for one in costs),
        listing=sum(one.listing for one in costs),
        waiting=sum(one.waiting for one in costs),
        macs=macs,
        utilisation=macs / (cycles * multipliers) if cycles else 0.0,
        sram_bytes=sum(one.sram_bytes for one in costs),
        dram_bytes=sum(one.dram_bytes for one in costs),
        energy=EnergyParts(*parts),
    )
