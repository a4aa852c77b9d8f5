"""From (seed, group, draw) to an injection, by counter-based generators: any draw can be made first, alone, or again.

Each draw has its own Philox streams (J. K. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11).

**Single faults.** Those of a group are all different: their numbers are the images of 0, 1, 2, ... under a keyed permutation of
the population, a Feistel network with cycle walking (J. Black and P. Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002). No
list of what was drawn is needed to avoid drawing it again.

**A bit error rate p.** Every bit of the population is faulty with probability p, independently of all others; so the count is
Binomial(N, p) over the N bits of the whole population, and, given the count, the places are drawn evenly without replacement. Each site is
drawn by itself: a count from Binomial(N_i, p), and so many different ones of its N_i bits, which is the same law restricted to that site.
Sites are independent, so all together is exactly the law above: the sum of the counts is Binomial(sum of N_i, p), nothing is rounded per
tensor, and a tensor of one number is hit as often as its bits say. A site's stream is keyed by (seed, rate, draw, the site's `stream`) and
by nothing else of the campaign. Hence two campaigns with the same seed on a network and on a protected version of it fault the same bits of
the tensors that both have, and the faults in what the protection added come on top: their results can be compared draw by draw
(`effc.faultsim.comparing`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from effc.faultsim.faults import Effect, Indices, Injection
from effc.faultsim.population import Population
from effc.faultsim.sites import Site

__all__ = ["DRAWING", "Group", "draw", "permuted"]

DRAWING = "2"  # raised with any change of what a seed gives: campaigns and their reports draw the same faults again, perhaps years apart

_ROUNDS = 8


@dataclass(frozen=True)
class Group:
    """Injections of one kind.

    Attributes:
        name: `BER 1e-06`, `bit 30`, `all`.
        population: what they are drawn from.
        rate: bit error rate; None for single faults.
        in_order: single faults are all of the population, in its order (exhaustive).
        listed: replayed faults: a tuple (sites, elements, bits) for each injection; None where they are drawn.
    """

    name: str
    population: Population
    rate: float | None = None
    in_order: bool = False
    listed: tuple[tuple[Indices, Indices, Indices], ...] | None = None

    @property
    def most(self) -> int | None:
        """Injections that can be made at all; None without a limit."""
        if self.listed is not None:
            return len(self.listed)
        return None if self.rate is not None else self.population.size


def draw(
    group: Group, index: int, number: int, seed: int, sites: tuple[Site, ...], effect: Effect, *, reach: int = 1, batch_groups: int = 1
) -> Injection:
    """Injection `number` of group `index`.

    Args:
        group: what to draw from. `index`, `number`: which one. `seed`: of the campaign.
        sites: of the campaign: a random value needs to know how many bits a number has.
        effect: a burst reaches `reach` adjacent bits, a random value all bits of its element.
        batch_groups: how many groups of images there are; one is drawn evenly.
    """
    stream: tuple[int | str, ...] = (
        (index,) if group.rate is None else (_text(group.rate),)
    )  # a rate means the same in campaigns with other rates beside it
    generator = _generator("draw", seed, *stream, number)
    batch_group = int(generator.integers(batch_groups)) if batch_groups > 1 else 0
    if group.listed is not None:
        places = group.listed[number]
    elif group.rate is not None:
        places = _at_rate(group.population, group.rate, number, seed, sites)
    else:
        first = number if group.in_order else permuted(number, group.population.size, seed, index)
        places = group.population.locate(np.array([first], np.int64))
    found, elements, bits = places
    faults, values = len(bits), None
    if effect == "burst":
        found, elements, bits = (np.repeat(found, reach), np.repeat(elements, reach), (bits[:, None] + np.arange(reach)).reshape(-1))
    elif effect == "random":
        once = np.unique(np.stack([found, elements]), axis=1)  # two bits of one element are one random value
        widths = np.array([sites[site].view.bits for site in once[0]], np.int64)
        found, elements = np.repeat(once[0], widths), np.repeat(once[1], widths)
        bits = np.concatenate([np.arange(width) for width in widths]) if len(widths) else np.empty(0, np.int64)
        faults, values = len(widths), np.empty(len(bits), bool)
        for site in np.unique(found):
            here = found == site
            drawn = generator if group.rate is None else _generator("values", seed, *stream, number, sites[site].stream)
            values[here] = drawn.integers(0, 2, int(here.sum())).astype(bool)
    if values is None and len(bits) > 1:
        found, elements, bits = np.unique(np.stack([found, elements, bits]), axis=1)  # a bit that two bursts reach is flipped once
    return Injection(index, number, faults, found, elements, bits, batch_group, values)


def _at_rate(population: Population, rate: float, number: int, seed: int, sites: tuple[Site, ...]) -> tuple[Indices, Indices, Indices]:
    """The faulty places of one draw, site by site (see the module). Parts of one site follow each other in its stream."""
    streams: dict[int, np.random.Generator] = {}
    chosen = [np.empty(0, np.int64)]
    start = 0
    for part in population.parts:
        if part.site not in streams:
            streams[part.site] = _generator("rate", seed, _text(rate), number, sites[part.site].stream)
        count = int(streams[part.site].binomial(part.size, rate))
        if count:
            chosen.append(start + np.sort(streams[part.site].choice(part.size, count, replace=False, shuffle=False)).astype(np.int64))
        start += part.size
    return population.locate(np.concatenate(chosen))


def permuted(number: int, size: int, seed: int, stream: int = 0) -> int:
    """The image of `number` under a permutation of 0 .. size - 1 that (seed, stream) names. `number` must be below `size`."""
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    key = _key("permutation", seed, stream, size)
    value = number
    while True:  # on average less than four rounds of walking: the network's domain is under four times `size`
        left, right = value >> half, value & mask
        for turn in range(_ROUNDS):
            left, right = right, left ^ (_mixed(right, turn, key) & mask)
        value = (left << half) | right
        if value < size:
            return value


def _mixed(value: int, turn: int, key: Any) -> int:
    text = value.to_bytes(8, "little") + bytes([turn])
    return int.from_bytes(hashlib.blake2b(text, digest_size=8, key=key.tobytes()).digest(), "little")


def _text(rate: float) -> str:
    """All digits of it, and nothing else: `1e-06`."""
    return repr(float(rate))


def _generator(purpose: str, *names: int | str) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=_key(purpose, *names)))


def _key(purpose: str, *names: int | str) -> Any:
    """128 bits that name a stream: a hash, because a key of plain numbers would limit each of them to a few bits."""
    text = "\0".join([purpose, *map(str, names)])
    return np.frombuffer(hashlib.blake2b(text.encode(), digest_size=16).digest(), np.uint64)
