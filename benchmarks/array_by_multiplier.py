"""The MAC array, multiplier by multiplier, in plain Python integers: what `effc.faultsim.accelerator.faults` must equal.

Nothing of the package is used here: im2col, folds, partial sums, gating and registers are written once more, as the docstrings of
`mapping` and `effc.cost.accelerator.cores` say.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
WIDTHS = {"pe-product": 16, "pe-sum": 32, "accumulator": 32, "sram-weight": 8, "sram-activation": 8}


@dataclass(frozen=True)
class Geometry:
    """A convolution: words (S, C, spatial...) int8 with a zero point, weights (O, C / groups, kernel...)."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    zero_point: int = 0


@dataclass(frozen=True)
class Array:
    rows: int
    columns: int
    dataflow: str
    skip: int | None = None


@dataclass(frozen=True)
class Fault:
    kind: str
    bit: int
    effect: str
    place: tuple[int, ...]


def read(value: int, fault: Fault) -> int:
    """A two's complement word with the bit flipped or stuck."""
    width = WIDTHS[fault.kind]
    word = value & ((1 << width) - 1)
    if fault.effect == "flip":
        word ^= 1 << fault.bit
    elif fault.effect == "stuck-at-1":
        word |= 1 << fault.bit
    else:
        word &= ~(1 << fault.bit)
    return word - (1 << width) if word >> (width - 1) else word


def wrapped(value: int) -> int:
    return (value + 2**31) % 2**32 - 2**31


def simulate(words: Ints, weights: Ints, geometry: Geometry, array: Array, fault: Fault | None) -> Ints:
    """Sums (S, O, positions) of a convolution."""
    words, weights = words.copy(), weights.copy()
    if fault is not None and fault.kind.startswith("sram"):
        for sample in words if fault.kind == "sram-activation" else [weights]:
            flat = sample.reshape(-1)
            for element in fault.place:
                flat[element] = read(int(flat[element]), fault)
        fault = None
    x = words - geometry.zero_point
    inner, outer = weights.shape[1], weights.shape[0] // geometry.groups
    results = []
    for sample in x:
        for group in range(geometry.groups):
            part = sample[group * inner : (group + 1) * inner]
            a, live = lowered(part, sample, group * inner, weights.shape[2:], geometry, array.skip)
            b = weights[group * outer : (group + 1) * outer].reshape(outer, -1).T
            here = fault
            if fault is not None and fault.kind == "accumulator" and fault.effect == "flip":
                fold, channel, position = fault.place
                here = replace(fault, place=(fold, channel - group * outer, position)) if channel // outer == group else None
            results.append(product(a, b, live, array, here, places_of_units(group, outer, len(a), inner, geometry.groups, array)))
    return np.array(results).reshape(len(x), -1, results[0].shape[1])


def lowered(
    part: Ints, sample: Ints, first: int, kernel: tuple[int, ...], geometry: Geometry, skip: int | None
) -> tuple[Ints, NDArray[np.bool_]]:
    """im2col of one group: (M, K), and which inputs are multiplied."""
    dims = len(kernel)
    out = [
        (part.shape[1 + d] + geometry.padding[d] + geometry.padding[d + dims] - geometry.dilation[d] * (kernel[d] - 1) - 1)
        // geometry.stride[d]
        + 1
        for d in range(dims)
    ]
    rows, lives = [], []
    for place in itertools.product(*map(range, out)):
        row, live = [], []
        for channel in range(part.shape[0]):
            for tap in itertools.product(*map(range, kernel)):
                at = tuple(place[d] * geometry.stride[d] - geometry.padding[d] + tap[d] * geometry.dilation[d] for d in range(dims))
                inside = all(0 <= at[d] < part.shape[1 + d] for d in range(dims))
                row.append(int(part[(channel, *at)]) if inside else 0)
                if skip is None:
                    live.append(True)
                else:
                    live.append(inside and any(sample[(c, *at)] != 0 for c in beside(first, part.shape[0], channel, skip, len(sample))))
        rows.append(row)
        lives.append(live)
    return np.array(rows, np.int64), np.array(lives, bool)


def beside(first: int, inner: int, channel: int, skip: int, channels: int) -> range:
    """The input channels that are skipped together with one: of its group, or of all groups where each has one."""
    low, high = (0, channels) if inner == 1 else (first, first + inner)
    block = low + (first + channel - low) // skip * skip
    return range(block, min(block + skip, high))


def places_of_units(group: int, outer: int, places: int, inner: int, groups: int, array: Array) -> dict[tuple[int, int], tuple[int, int]]:
    """Row and column of every output (n, m) of a group, where sums stay in their place: units go to cores one after the other."""
    if array.dataflow != "event-driven":
        return {(n, m): (m % array.rows, n % array.columns) for n in range(outer) for m in range(places)}
    shared = array.skip if inner == 1 and groups > 1 and array.skip else 1
    found, number = {}, 0
    for first in range(0, groups, shared):
        outputs = [(g, n) for g in range(first, min(first + shared, groups)) for n in range(outer)]
        step = len(outputs) if shared > 1 else array.columns
        for start in range(0, len(outputs), step):
            for m in range(places):
                for column, (g, n) in enumerate(outputs[start : start + step]):
                    if g == group:
                        found[n, m] = (number % array.rows, column % array.columns)
                number += 1
            number += places % array.rows == 0
    return found


def product(
    a: Ints, b: Ints, live: NDArray[np.bool_], array: Array, fault: Fault | None, places: dict[tuple[int, int], tuple[int, int]]
) -> Ints:
    """(N, M) sums of a matrix product on the array."""
    (positions, depth), channels = a.shape, b.shape[1]
    result = np.zeros((channels, positions), np.int64)

    def multiply(row: int, column: int, m: int, k: int, n: int) -> int:
        there = k < depth
        if array.skip is not None and not (there and live[m, k]):
            return 0  # gated
        formed = int(a[m, k]) * int(b[k, n]) if there else 0
        return read(formed, fault) if fault is not None and fault.kind == "pe-product" and fault.place == (row, column) else formed

    def summed(row: int, column: int, value: int) -> int:
        return read(value, fault) if fault is not None and fault.kind == "pe-sum" and fault.place == (row, column) else value

    def flipped(step: int, n: int, m: int, value: int) -> int:
        hit = fault is not None and fault.kind == "accumulator" and fault.effect == "flip" and fault.place == (step, n, m)
        return read(value, fault) if hit and fault is not None else value

    one: Callable[..., int] = _in_columns if array.dataflow in ("weight-stationary", "input-stationary") else _in_place
    for n in range(channels):
        for m in range(positions):
            result[n, m] = one(n, m, depth, array, fault, multiply, summed, flipped, live, places[n, m])
    return result


def _in_columns(n: int, m: int, depth: int, array: Array, fault: Fault | None, multiply: Any, summed: Any, flipped: Any, *_: Any) -> int:
    column = (n if array.dataflow == "weight-stationary" else m) % array.columns
    held = 0
    for fold in range(math.ceil(depth / array.rows)):
        running = 0
        for row in range(array.rows):
            running = wrapped(running + multiply(row, column, m, fold * array.rows + row, n))
            running = summed(row, column, running)
        held = wrapped(held + running)
        if fault is not None and fault.kind == "accumulator" and fault.effect != "flip" and fault.place == (column,):
            held = read(held, fault)
        held = flipped(fold, n, m, held)
    return held


def _in_place(
    n: int,
    m: int,
    depth: int,
    array: Array,
    fault: Fault | None,
    multiply: Any,
    summed: Any,
    flipped: Any,
    live: Any,
    place: tuple[int, int],
) -> int:
    row, column = place
    held = 0
    for k in range(depth):
        if array.dataflow == "event-driven" and array.skip is not None and not live[m, k]:
            held = flipped(k, n, m, held)
            continue  # no event, no addition
        held = summed(row, column, wrapped(held + multiply(row, column, m, k, n)))
        held = flipped(k, n, m, held)
    return held
