"""Figures of `dense_cpu` that are arithmetic alone: settings, means, how many blocks a network gets, shares of the peak."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from effc.errors import DataError

__all__ = [
    "Blocks",
    "Rounds",
    "Setting",
    "blocks_for",
    "default_settings",
    "geometric_mean",
    "layer_share",
    "parse_settings",
    "share_of_peak",
    "weighted_share",
    "within",
]

Rounds = Sequence[Sequence[float]]  # an engine's durations in nanoseconds, by round (`Comparison.durations`)

_ENGINE_SECONDS = 4.0  # spent on one engine in one comparison
_SETTLING = 0.05  # a block's first calls, which are not counted, take this long; a single call may take longer
_LEAST_CALLS = 3  # counted calls of a block


@dataclass(frozen=True)
class Setting:
    """How networks are run: threads of each engine, samples of one call."""

    threads: int
    batch: int

    def __str__(self) -> str:
        return f"{self.threads} thread{'s' if self.threads > 1 else ''}, batch {self.batch}"


@dataclass(frozen=True)
class Blocks:
    """How often engines take turns, and for how long."""

    count: int
    seconds: float
    warm_up: float


def default_settings(threads: int) -> tuple[Setting, ...]:
    """One thread and all of them at batch 1, and all of them at batch 8."""
    return tuple(dict.fromkeys((Setting(1, 1), Setting(threads, 1), Setting(threads, 8))))


def parse_settings(text: str) -> tuple[Setting, ...]:
    """`1x1,2x8`: threads x batch. Raises DataError."""
    found = []
    for part in text.split(","):
        threads, _, batch = part.strip().partition("x")
        if not (threads.isdecimal() and batch.isdecimal() and int(threads) and int(batch)):
            raise DataError(f"the setting {part.strip()!r} is not THREADSxBATCH, such as 2x1")
        found.append(Setting(int(threads), int(batch)))
    return tuple(dict.fromkeys(found))


def blocks_for(call_seconds: float, *, quick: bool) -> Blocks:
    """Enough blocks for an interval in bounded time: slow networks get fewer, because one block takes several of their calls."""
    if quick:
        return Blocks(4, 0.1, 0.2)
    seconds = 0.25
    block = max(seconds + _SETTLING, call_seconds * (_LEAST_CALLS + 1))
    return Blocks(max(4, min(10, round(_ENGINE_SECONDS / block))), seconds, 0.5)


def geometric_mean(values: Iterable[float]) -> float:
    """The mean for ratios: that of a ratio and its inverse is 1. NaN for none, and where one is NaN or not above 0."""
    numbers = list(values)
    if not numbers or not all(number > 0 for number in numbers):
        return math.nan
    return math.exp(math.fsum(map(math.log, numbers)) / len(numbers))


def weighted_share(counts: Mapping[str, int], ideal: Mapping[str, float], taken: Mapping[str, float]) -> float:
    """The share of the peak over several layers, each weighted by the time that all layers of its kind take.

    Σ count·taken·(ideal/taken) / Σ count·taken: the time that they would take at the peak over the time that they take. NaN for none.

    Args:
        counts: how often the network has each layer.
        ideal: time of each layer at the peak.
        taken: its measured time, in the same unit.
    """
    whole = sum(count * taken[name] for name, count in counts.items())
    return sum(count * ideal[name] for name, count in counts.items()) / whole if whole > 0 else math.nan


def share_of_peak(work: float, calls: Rounds, burst: float, bursts: Rounds) -> float:
    """A network's operations a second over the peak's: in each round its median call against the peak's best burst; their median.

    Args:
        work: operations of one call.
        calls: its durations.
        burst: operations of one burst of the peak.
        bursts: their durations, in the same rounds.
    """
    rounds = zip(calls, bursts, strict=True)
    return median((work / median(mine)) / (burst / min(peak)) for mine, peak in rounds)


def within(one: float, several: float, count: int) -> float:
    """Time of one layer inside a network, from programs of one and of `count` such layers: what one more costs. Raises ValueError."""
    if not several > one:
        raise ValueError(f"{count} layers took {several:.3g}, one alone {one:.3g}: that is no measurement of a layer")
    return (several - one) / (count - 1)


def layer_share(work: float, ones: Rounds, severals: Rounds, count: int, burst: float, bursts: Rounds) -> float:
    """`share_of_peak` of one layer inside a network; both programs are measured in bursts of the same round. Raises ValueError.

    Args:
        work: operations of the layer.
        ones, severals: durations of the programs of one and of `count` layers.
        count: layers of the latter.
        burst, bursts: operations and durations of the peak's bursts, in the same rounds.
    """
    peaks = [min(block) for block in bursts]
    one, several = (median(median(block) / peak for block, peak in zip(blocks, peaks, strict=True)) for blocks in (ones, severals))
    return work / burst / within(one, several, count)
