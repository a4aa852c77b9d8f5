"""From (seed, group, draw) to an injection, by counter-based generators: any draw can be made first, alone, or again.

Each draw has its own Philox stream (J. K. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11), keyed by seed, group and
draw. Faults of a group of single faults are different from each other: their numbers are the images of 0, 1, 2, ... under a keyed
permutation of the population, a Feistel network with cycle walking (J. Black and P. Rogaway, "Ciphers with arbitrary finite domains",
CT-RSA 2002), so that no list of what was drawn is needed to avoid drawing it again.
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

DRAWING = "1"  # raised with any change of what a seed gives: campaigns and their reports draw the same faults again, perhaps years apart

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
    generator = np.random.Generator(np.random.Philox(key=_key("draw", seed, index, number)))
    batch_group = int(generator.integers(batch_groups)) if batch_groups > 1 else 0
    if group.listed is not None:
        places = group.listed[number]
    else:
        places = group.population.locate(_numbers(group, index, number, seed, generator))
    found, elements, bits = places
    faults, values = len(bits), None
    if effect == "burst":
        found, elements, bits = (np.repeat(found, reach), np.repeat(elements, reach), (bits[:, None] + np.arange(reach)).reshape(-1))
    elif effect == "random":
        first = np.unique(np.stack([found, elements]), axis=1)  # two bits of one element are one random value
        widths = np.array([sites[site].view.bits for site in first[0]], np.int64)
        found, elements = np.repeat(first[0], widths), np.repeat(first[1], widths)
        bits = np.concatenate([np.arange(width) for width in widths]) if len(widths) else np.empty(0, np.int64)
        faults, values = len(widths), generator.integers(0, 2, len(bits)).astype(bool)
    if values is None and len(bits) > 1:
        found, elements, bits = np.unique(np.stack([found, elements, bits]), axis=1)  # a bit that two bursts reach is flipped once
    return Injection(index, number, faults, found, elements, bits, batch_group, values)


def _numbers(group: Group, index: int, number: int, seed: int, generator: np.random.Generator) -> Indices:
    size = group.population.size
    if group.rate is not None:
        count = int(generator.binomial(size, group.rate))
        return np.sort(generator.choice(size, count, replace=False, shuffle=False)).astype(np.int64)
    if group.in_order:
        return np.array([number], np.int64)
    return np.array([permuted(number, size, seed, index)], np.int64)


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


def _key(purpose: str, *numbers: int) -> Any:
    """128 bits that name a stream: a hash, because a key of plain numbers would limit each of them to a few bits."""
    text = "\0".join([purpose, *map(str, numbers)])
    return np.frombuffer(hashlib.blake2b(text.encode(), digest_size=16).digest(), np.uint64)
