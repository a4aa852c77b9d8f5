"""Whether it pays to compute a layer of a streaming program by pixels: both ways' times, predicted from its work and from measured shares.

    dense  = macs / dense rate                      pools, concatenations, resizes, elementwise layers: elements / move rate
    sparse = launch + list * pixels + share * (position * pixels + dense' / efficiency)
    kept   = compare * elements                     a dense result that is compared with that of the frame before

`share` is the share of output pixels whose window holds a moved pixel, measured on the calibration clip; dense' is the time of the direct
kernel, also where the dense one would be Winograd's. A layer is computed by pixels when its result is kept (it has a truncate) and so are
all values that it reads. Without a truncate a layer is dense, and so is everything that reads it; a truncate behind a dense layer costs
the comparison and lets what follows be sparse. `choose` decides which layers have one.

The rates are those of two current cores, scaled to the width of the target's vectors (`stream_rates`): predictions tell which way is
faster, and are no times of any one machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

__all__ = ["STANDARD", "LayerWork", "StreamRates", "choose", "dense_time", "kept_time", "sparse_time", "stream_rates", "total_time"]

_LESS = 1 - 1e-9  # of a time: less by rounding alone is not less, or two changes could undo each other for ever
_LANES = 16  # float32 elements of a vector of the processor that was measured


@dataclass(frozen=True)
class StreamRates:
    """One processor with all threads that a program uses.

    Attributes:
        macs: multiply-accumulates a nanosecond of the direct dense convolution.
        depthwise: the same of depthwise convolutions, which memory bounds.
        moves: output elements a nanosecond of pools, concatenations, resizes and elementwise layers.
        winograd: how many times faster than the direct one a 3x3 convolution by Winograd's algorithm is.
        efficiency: rate of the kernels that compute listed pixels, relative to the dense direct ones.
        launch: nanoseconds that a sparse layer costs beside its pixels.
        listing: nanoseconds for each output pixel: its window's mask, and its place in the list.
        position: nanoseconds for each pixel that is computed, beside its multiply-accumulates: its window is gathered, its result compared
            with that of the frame before, and stored.
        compare: nanoseconds for each output element of a dense layer whose result is compared with that of the frame before.
    """

    macs: float = 150.0
    depthwise: float = 70.0
    moves: float = 8.0
    winograd: float = 2.2
    efficiency: float = 0.8
    launch: float = 2500.0
    listing: float = 0.25
    position: float = 5.0
    compare: float = 0.15


STANDARD = StreamRates()
"""Round numbers of two current cores with vectors of 512 bits, measured step by step on a detector of 57 layers."""


def stream_rates(lanes: int) -> StreamRates:
    """The rates of two cores whose vectors hold so many float32 elements (`Target.lanes`).

    What vectors compute and move scales with them: multiply-accumulates, depthwise ones, and moved elements. Launches, lists, and the cost
    of a listed pixel do not.
    """
    scale = lanes / _LANES
    return replace(STANDARD, macs=STANDARD.macs * scale, depthwise=STANDARD.depthwise * scale, moves=STANDARD.moves * scale)


@dataclass(frozen=True)
class LayerWork:
    """One layer of a frame.

    Attributes:
        name: of the layer.
        macs: multiply-accumulates.
        pixels: of its result.
        elements: of its result: pixels times channels.
        depthwise: whether it is a depthwise convolution.
        winograd: whether the dense kernel is Winograd's: a 3x3 convolution of stride 1, without groups or dilation, of 16 channels or more
        on
            both sides.
        reads: names of the layers (or of the frame) whose results it reads.
        sparse: whether it can be computed by pixels at all.
    """

    name: str
    macs: int
    pixels: int
    elements: int
    depthwise: bool = False
    winograd: bool = False
    reads: tuple[str, ...] = ()
    sparse: bool = True


def _direct(work: LayerWork, rates: StreamRates) -> float:
    return work.macs / (rates.depthwise if work.depthwise else rates.macs) + (0.0 if work.macs else work.elements / rates.moves)


def dense_time(work: LayerWork, rates: StreamRates) -> float:
    """Nanoseconds of the fastest dense kernel."""
    return _direct(work, rates) / (rates.winograd if work.winograd else 1.0)


def kept_time(work: LayerWork, rates: StreamRates) -> float:
    """Nanoseconds of comparing a dense result with that of the frame before."""
    return rates.compare * work.elements


def sparse_time(work: LayerWork, share: float, rates: StreamRates) -> float:
    """Nanoseconds of computing a share of a layer's pixels."""
    return rates.launch + rates.listing * work.pixels + share * (rates.position * work.pixels + _direct(work, rates) / rates.efficiency)


def total_time(layers: Sequence[LayerWork], shares: Mapping[str, float], kept: Mapping[str, bool], rates: StreamRates) -> float:
    """Nanoseconds of all layers.

    Args:
        layers: in order.
        shares: of the pixels that must be computed, by name; where everything that a layer reads is kept.
        kept: whether a layer's result is kept, by name; what is not in `layers` is (the frame).
        rates: of the processor.
    """
    return sum(_time(work, shares, kept, rates) for work in layers)


def _time(work: LayerWork, shares: Mapping[str, float], kept: Mapping[str, bool], rates: StreamRates) -> float:
    if not kept[work.name]:
        return dense_time(work, rates)
    if work.sparse and all(kept.get(one, True) for one in work.reads):
        return sparse_time(work, shares[work.name], rates)
    return dense_time(work, rates) + kept_time(work, rates)


def choose(layers: Sequence[LayerWork], shares: Mapping[str, float], rates: StreamRates = STANDARD) -> dict[str, bool]:
    """Which layers keep their results, so that the predicted time is small.

    One layer after the other changes sides where that saves time, from the end to the front and back, until none does; once from all kept,
    once from none, and the better one is taken. (A layer at the end can be given up alone; one in the middle takes those behind it along,
    and by then they are decided.) A layer whose neighbours must change with it, because a truncate pays only for what follows or what
    follows is all that it was for, is tried together with what it reads, and with what reads it.

    Args:
        layers: in order.
        shares: see `total_time`; measured with all layers kept.
        rates: of the processor.

    Returns:
        By name, whether its result is kept.
    """
    by_name = {work.name: work for work in layers}
    readers: dict[str, list[str]] = {}
    for work in layers:
        for one in work.reads:
            readers.setdefault(one, []).append(work.name)

    def groups(work: LayerWork) -> Iterator[list[str]]:
        yield [work.name]
        yield [work.name, *(one for one in work.reads if one in by_name)]
        yield [work.name, *readers.get(work.name, ())]

    def changed(kept: dict[str, bool], names: Sequence[str], to: bool) -> bool:
        """Whether it saves time to let these be kept or not; they are, then."""
        other = [name for name in names if kept[name] != to]
        around = [by_name[one] for one in dict.fromkeys(one for name in other for one in (name, *readers.get(name, ())))]
        before = total_time(around, shares, kept, rates)
        kept.update(dict.fromkeys(other, to))
        if total_time(around, shares, kept, rates) < before * _LESS:
            return True
        kept.update(dict.fromkeys(other, not to))
        return False

    def improved(kept: dict[str, bool], order: Sequence[LayerWork]) -> bool:
        return sum(changed(kept, names, not kept[work.name]) for work in order for names in groups(work)) > 0

    found = []
    for start in (True, False):
        kept = {work.name: start for work in layers}
        while improved(kept, layers[::-1]) | improved(kept, layers):
            pass
        found.append(kept)
    return min(found, key=lambda one: total_time(layers, shares, one, rates))
