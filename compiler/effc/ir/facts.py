"""What was observed about a program's values on data: ranges, density, change between frames.

Facts are measurements, not guarantees: a pass that relies on one must stay correct when later data differ (Ranger's bounds), or
say that it is lossy. They are keyed by the graph's value names and travel with the program through save and load.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

__all__ = ["Facts", "Histogram", "ValueFacts"]


@dataclass(frozen=True)
class Histogram:
    """How the magnitudes of a value are spread.

    Attributes:
        upper: where the last bin ends, in the value's own unit: a high quantile, so that a few large values do not hide the others.
        shares: of equal bins from 0 to `upper`: the share of all elements whose magnitude is in it. Exact zeros are in none of them (they
            are 1 - density), nor are magnitudes over `upper` (what is missing from `density`).
    """

    upper: float
    shares: tuple[float, ...]


@dataclass(frozen=True)
class ValueFacts:
    """Observations of one value (the output of one node), over every sample of the data.

    Attributes:
        minimum, maximum: extremes over all elements and samples, in the value's own unit.
        density: share of elements that are not exactly zero, in [0, 1].
        change_rate: share of elements that differ from the frame before, in [0, 1]; None without frame order.
        samples: number of samples that were observed.
        histogram: of its magnitudes; None where nobody counted them.
    """

    minimum: float
    maximum: float
    density: float
    samples: int
    change_rate: float | None = None
    histogram: Histogram | None = None


@dataclass(frozen=True)
class Facts:
    """All observations of a program. `values` maps a node's name to what was seen there."""

    values: Mapping[str, ValueFacts] = field(default_factory=dict)

    def with_values(self, values: Mapping[str, ValueFacts]) -> Facts:
        """These facts, updated by newer ones."""
        return replace(self, values={**self.values, **values})

    def only(self, names: set[str]) -> Facts:
        """The facts of the given values: a rewrite drops those of values that it removed."""
        return replace(self, values={name: fact for name, fact in self.values.items() if name in names})

    def as_json(self) -> dict[str, Any]:
        return {"values": {name: asdict(fact) for name, fact in sorted(self.values.items())}}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Facts:
        return cls(values={name: _value_facts(fact) for name, fact in data.get("values", {}).items()})


def _value_facts(data: Mapping[str, Any]) -> ValueFacts:
    histogram = data.get("histogram")
    counted = None if histogram is None else Histogram(histogram["upper"], tuple(histogram["shares"]))
    return ValueFacts(**{**data, "histogram": counted})
