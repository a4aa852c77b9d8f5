"""Counts of events against loops over every input, tap and output channel."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from effc.cost.accelerator import find_accelerator
from effc.cost.accelerator.event_driven import Events, count_events, everything
from effc.cost.accelerator.product import Product, Window

ARRAY = find_accelerator("event-driven").model_copy(update={"rows": 3, "columns": 2})


def convolution(channels: int, out: int, groups: int, window: Window, images: int = 1) -> Product:
    taps, places = window.kernel[0] * window.kernel[1], window.outputs[0] * window.outputs[1]
    shape = (images, channels, *window.inputs)
    n = out // groups
    if window.transposed:
        rows = images * window.inputs[0] * window.inputs[1]
        return Product("c", "conv", "c", "x", shape, groups, rows, channels // groups, n * taps, images * out * places, n, window)
    return Product("c", "conv", "c", "x", shape, groups, images * places, channels // groups * taps, n, images * out * places, n, window)


def reached(window: Window, place: tuple[int, int]) -> list[tuple[int, int]]:
    """Places of the result that an input at a place has a tap for; one entry a tap."""
    found = []
    for tap in itertools.product(*map(range, window.kernel)):
        result = []
        for axis in (0, 1):
            step, pad, spread = window.stride[axis], window.padding[axis][0], window.dilation[axis]
            if window.transposed:
                at = place[axis] * step - pad + tap[axis] * spread
            else:
                at, rest = divmod(place[axis] + pad - tap[axis] * spread, step)
                at = at if rest == 0 else -1
            result.append(at)
        if all(0 <= at < size for at, size in zip(result, window.outputs, strict=True)):
            found.append((result[0], result[1]))
    return found


def by_hand(product: Product, active: Tensor, rows: int, columns: int) -> tuple[int, int, int, int]:
    """Multiply-accumulates, cycles of the busiest core, of all, results that are touched."""
    window = product.window
    assert window is not None
    images, channels, *_ = product.shape
    inner, chunks = channels // product.groups, -(-product.channels // columns)
    cores: Counter[int] = Counter()
    touched, macs = set(), 0
    places = images * window.outputs[0] * window.outputs[1]
    turn = places + (places % rows == 0)
    for image, channel, y, x in itertools.product(range(images), range(channels), *map(range, window.inputs)):
        if not active[image, channel, y, x]:
            continue
        group = channel // inner
        for v, u in reached(window, (y, x)):
            place = (image * window.outputs[0] + v) * window.outputs[1] + u
            for n in range(product.channels):
                macs += 1
                touched.add((place, group, n))
            for chunk in range(chunks):
                cores[(group * chunks + chunk) * turn + place] += 1
    work = [sum(cycles for unit, cycles in cores.items() if unit % rows == core) for core in range(rows)]
    return macs, max(work), sum(work), len(touched)


CASES = {
    "plain": (5, 7, 1, Window((5, 4), (5, 4), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1))),
    "strided, odd padding": (3, 4, 1, Window((7, 6), (3, 4), (3, 2), (2, 2), ((0, 1), (1, 2)), (1, 1))),
    "grouped, dilated": (6, 9, 3, Window((6, 5), (4, 3), (2, 2), (1, 1), ((0, 0), (0, 0)), (2, 2))),
    "depthwise": (5, 5, 5, Window((4, 4), (4, 4), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1))),
    "transposed": (4, 6, 2, Window((3, 4), (6, 7), (3, 2), (2, 2), ((1, 0), (1, 0)), (1, 1), True)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("images", [1, 2])
def test_single_inputs(name: str, images: int) -> None:
    product = convolution(*CASES[name], images=images)
    generator = torch.Generator().manual_seed(len(name))
    active = torch.rand(product.shape, generator=generator) < 0.3
    macs, busiest, total, touched = by_hand(product, active, ARRAY.rows, ARRAY.columns)
    found = count_events(product, active[None], ARRAY)
    entries = int(active.sum())
    assert found == Events(entries / active.numel(), entries, macs, macs, busiest, total, touched)


def test_calls_are_averaged_and_each_has_its_busiest_core() -> None:
    product = convolution(*CASES["plain"])
    generator = torch.Generator().manual_seed(5)
    active = torch.rand((4, *product.shape), generator=generator) < torch.tensor([0.1, 0.5, 0.9, 0.0]).reshape(4, 1, 1, 1, 1)
    one_by_one = [count_events(product, active[index : index + 1], ARRAY) for index in range(4)]
    together = count_events(product, active, ARRAY)
    for part in ("entries", "macs", "cycles", "total", "touched"):
        assert getattr(together, part) == sum(getattr(one, part) for one in one_by_one) / 4


def test_all_inputs_do_all_that_is_not_padding() -> None:
    product = convolution(*CASES["plain"])
    inside = sum(len(reached(CASES["plain"][3], place)) for place in itertools.product(range(5), range(4)))
    assert everything(product, ARRAY).macs == inside * 5 * 7 < product.macs
    unpadded = convolution(3, 4, 1, Window((5, 4), (3, 2), (3, 3), (1, 1), ((0, 0), (0, 0)), (1, 1)))
    assert everything(unpadded, ARRAY).macs == unpadded.macs


@pytest.mark.parametrize("name", ["plain", "grouped, dilated"])
def test_channels_in_blocks_cost_their_zeros_and_fewer_updates(name: str) -> None:
    """Two channels an event: as single inputs where both are events whenever one is; sums are updated once for both."""
    channels, out, groups, window = CASES[name]
    product, width = convolution(channels, out, groups, window), 2
    active = torch.rand(product.shape, generator=torch.Generator().manual_seed(3)) < 0.2
    inner = channels // groups
    filled, entries, updates = active.clone(), 0, 0
    for group, start in itertools.product(range(groups), range(0, inner, width)):
        block = slice(group * inner + start, group * inner + min(start + width, inner))
        filled[:, block] = active[:, block].any(1, keepdim=True)
        for y, x in itertools.product(*map(range, window.inputs)):
            if bool(active[0, block, y, x].any()):
                entries += 1
                updates += len(reached(window, (y, x))) * product.channels
    macs, busiest, total, touched = by_hand(product, filled, ARRAY.rows, ARRAY.columns)
    found = count_events(product, active[None], ARRAY, width)
    assert (found.entries, found.macs, found.updates) == (entries, macs, updates)
    assert (found.cycles, found.total, found.touched) == (busiest, total, touched)


def test_blocks_of_a_depthwise_convolution_span_groups() -> None:
    """Two neighbouring groups are an event and meet two multipliers at once: as one group whose inputs are those of either."""
    channels, out, groups, window = CASES["depthwise"]
    product = convolution(channels, out, groups, window)
    active = torch.rand(product.shape, generator=torch.Generator().manual_seed(9)) < 0.2
    blocks = [active[:, start : start + 2] for start in range(0, channels, 2)]
    merged = torch.cat([block.any(1, keepdim=True) for block in blocks], 1)
    cores: Counter[int] = Counter()
    macs, touched = 0, set()
    for block, y, x in itertools.product(range(len(blocks)), *map(range, window.inputs)):
        if merged[0, block, y, x]:
            for v, u in reached(window, (y, x)):
                macs += blocks[block].shape[1]
                touched.add((v, u, block))
                cores[(block * 16 + v * window.outputs[1] + u) % ARRAY.rows] += 1
    found = count_events(product, active[None], ARRAY, 2)
    assert (found.entries, found.macs, found.updates) == (int(merged.sum()), macs, macs)
    assert (found.cycles, found.total) == (max(cores.values()), sum(cores.values()))
    assert found.touched == sum(blocks[block].shape[1] for _, _, block in touched)


def test_matrix_products() -> None:
    """(5, 4) @ (4, 3) on 3 cores of 2: two units a row of the inputs, each as long as the row has events."""
    product = Product("m", "mm", "m", "x", (5, 4), 1, 5, 4, 3, 15, 3)
    active = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0]], dtype=torch.bool)
    units = [2, 0, 1, 4, 2] * 2
    busiest = max(sum(units[core::3]) for core in range(3))
    assert count_events(product, active[None], ARRAY) == Events(0.45, 9, 27, 27, busiest, 18, 12)
    turned = replace(product, shape=(4, 5), by_column=True)
    assert count_events(turned, active.T[None], ARRAY) == count_events(product, active[None], ARRAY)


def test_a_matrix_that_a_batch_shares_meets_all_of_it() -> None:
    shared = Product("m", "matmul", "m", "x", (5, 4), 6, 5, 4, 3, 90, 3)
    active = torch.ones((1, 5, 4), dtype=torch.bool)
    assert count_events(shared, active, ARRAY).macs == shared.macs == 360
