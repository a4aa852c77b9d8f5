"""The groups of a campaign: what is drawn from what, as the spec says."""

from __future__ import annotations

from collections.abc import Sequence

from effc.errors import ConfigError, InternalError, Problem
from effc.faultsim.drawing import Group
from effc.faultsim.faults import Indices
from effc.faultsim.population import Population, whole
from effc.faultsim.sites import Site
from effc.faultsim.spec import CampaignSpec, parse_bits

__all__ = ["Places", "groups_of", "population_of"]

Places = tuple[Indices, Indices, Indices]


def population_of(spec: CampaignSpec, sites: Sequence[Site]) -> Population:
    """All bits that the campaign draws from; for random values one place for each number.

    Args:
        spec: its bits and effect count. `sites`: in the campaign's order.

    Raises:
        ConfigError: no site has such bits, or a burst is longer than a number.
    """
    chosen = parse_bits(spec.bits)
    widest = max(site.view.bits for site in sites)
    if spec.reach > widest:
        raise ConfigError(f"a burst of {spec.reach} bits fits no number: the widest has {widest}")
    beyond = [bit for bit in chosen or () if bit >= widest]
    if beyond:
        raise ConfigError("there are no such bits", [Problem("bits", str(beyond), f"the widest number has bits 0 to {widest - 1}")])
    return whole(sites, (0,) if spec.effect == "random" else chosen, reach=spec.reach)


def groups_of(spec: CampaignSpec, sites: Sequence[Site], population: Population, listed: Sequence[Places] | None) -> tuple[Group, ...]:
    """The groups, in the campaign's order. `listed`: replayed injections, where the spec names a list."""
    if spec.rates:
        return tuple(Group(f"BER {rate:g}", population, rate) for rate in sorted(spec.rates))
    if spec.faults_csv is not None or listed is not None:
        if listed is None:
            raise InternalError("a campaign that replays a list was given none")
        return (Group("listed", population, listed=tuple(listed)),)
    if spec.exhaustive:
        return (Group("all", population, in_order=True),)
    if not spec.stratify:
        return (Group("all", population),)
    layers = list(dict.fromkeys(sites[part.site].layer for part in population.parts)) if "layer" in spec.stratify else [None]
    bits = sorted({bit for part in population.parts for bit in part.bits}) if "bit" in spec.stratify else [None]
    if "bit" in spec.stratify and spec.effect == "random":
        raise ConfigError("random values reach all bits: they cannot be stratified by bit")
    groups = []
    for layer in layers:
        inside = None if layer is None else [index for index, site in enumerate(sites) if site.layer == layer]
        for bit in bits:
            parts = [part for part in population.parts if inside is None or part.site in inside]
            if any(bit is None or bit in part.bits for part in parts):
                name = ", ".join([*([layer] if layer else []), *([] if bit is None else [f"bit {bit}"])])
                groups.append(Group(name, population.restricted(sites=inside, bits=None if bit is None else (bit,))))
    return tuple(groups)
