"""A campaign's experiments as a function: which injection number n of group g is, and which of them make a chunk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from effc.faultsim.drawing import Group, draw
from effc.faultsim.faults import Injection
from effc.faultsim.groups import Places, groups_of, population_of
from effc.faultsim.population import Population
from effc.faultsim.sites import Site
from effc.faultsim.spec import CampaignSpec

__all__ = ["Chunk", "Design"]

_LARGE, _SMALL = 512, 64  # injections of a chunk: of those tried on few images, and of those tried on all


@dataclass(frozen=True)
class Chunk:
    """Injections that are made and kept together: their (group, draw)."""

    stage: int
    number: int
    keys: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Design:
    """What a campaign draws.

    Attributes:
        spec: what was asked for. `sites`: where faults can be.
        population: all bits. `groups`: what the injections are drawn from.
        batch_groups: groups of images.
    """

    spec: CampaignSpec
    sites: tuple[Site, ...]
    population: Population
    groups: tuple[Group, ...]
    batch_groups: int

    @classmethod
    def of(
        cls,
        spec: CampaignSpec,
        sites: Sequence[Site],
        batch_groups: int,
        *,
        listed: Sequence[Places] | None = None,
    ) -> Design:
        """See `population_of` and `groups_of`. Raises ConfigError."""
        population = population_of(spec, sites)
        return cls(spec, tuple(sites), population, groups_of(spec, sites, population, listed), batch_groups)

    def draw(self, group: int, number: int) -> Injection:
        """Injection `number` of a group."""
        return draw(
            self.groups[group],
            group,
            number,
            self.spec.seed,
            self.sites,
            self.spec.effect,
            reach=self.spec.reach,
            batch_groups=self.batch_groups,
        )

    def chunks(self, stage: int, taken: Sequence[int], additional: Sequence[int]) -> Iterator[Chunk]:
        """The chunks of a stage: injections of the same images stand together, so that their golden run is computed once.

        Args:
            stage: its number. `taken`: injections of each group in earlier stages. `additional`: in this one.
        """
        keys = [(group, number) for group, count in enumerate(additional) for number in range(taken[group], taken[group] + count)]
        size = _SMALL if self.batch_groups == 1 else _LARGE
        if self.batch_groups > 1:
            order = {key: self.draw(*key).batch_group for key in keys}
            keys.sort(key=lambda key: (order[key], key))
        for number, start in enumerate(range(0, len(keys), size)):
            yield Chunk(stage, number, tuple(keys[start : start + size]))

    def as_json(self) -> dict[str, Any]:
        """What a merge needs to know of it."""
        groups = [{"name": group.name, "rate": group.rate, "population": group.population.size} for group in self.groups]
        return {
            "sites": [site.as_json() for site in self.sites],
            "groups": groups,
            "population": self.population.size,
            "batch_groups": self.batch_groups,
        }
