"""Counting events: what an event-driven array has to do for one call, exactly, from which inputs are events.

An input that is an event meets, at every tap of its window that lies inside of the result, all output channels of its group: work is events
times fan-out, less at edges and under strides. An output neuron belongs to one of R cores (rows); a core multiplies one input with the
weights of up to C (columns) output channels of one place of the result in a cycle. So it is counted from the results' side:

    taps[g, p]   = how many events of group g the window of place p holds
    unit         = a place, a group, and up to C of its output channels; it takes taps[g, p] cycles; its core is that of `cores`
    cycles       = those of the core with the most

Dealing out units by turns needs no knowledge of the data. Neighbouring places, which are active together, come to different cores, and no
core has all of a channel, since some channels are active everywhere. Sums of one neuron never meet from two cores. What remains unbalanced
is counted, not assumed away.

Events of several channels: with a width of v, v neighbouring channels of a group are one event where any of them is one; their zeros are
multiplied, too. They are added up in the core's registers, so a sum in memory is read and written once an event and not once an input.
A depthwise convolution has one channel a group: there v neighbouring groups are one event, and meet v multipliers at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from effc.cost.accelerator.cores import Cores
from effc.cost.accelerator.description import Accelerator
from effc.cost.accelerator.product import Product, Window

__all__ = ["Events", "count_events", "everything"]

_EXACT = torch.float32  # holds counts of a window, up to 2^24, exactly; sums of many windows are float64


@dataclass(frozen=True)
class Events:
    """Means of a call.

    Attributes:
        share: of the inputs that are an event of their own, whatever the array's width.
        entries: events: entries of the list.
        macs: multiply-accumulates.
        updates: of sums in memory: each is a read and a write.
        cycles: of the busiest core of each call. total: of all cores.
        touched: results that any event reaches.
    """

    share: float
    entries: float
    macs: float
    updates: float
    cycles: float
    total: float
    touched: float


def everything(product: Product, accelerator: Accelerator, width: int = 1) -> Events:
    """Where all inputs are events."""
    return count_events(product, torch.ones((1, *product.shape), dtype=torch.bool), accelerator, width)


def count_events(product: Product, active: Tensor, accelerator: Accelerator, width: int = 1) -> Events:
    """Count calls.

    Args:
        product: the layer.
        active: bool (calls, *the inputs' shape): which are events.
        accelerator: rows are cores, columns their multipliers.
        width: neighbouring channels that are one event together.
    """
    calls = len(active)
    grid = _grid(product, active)  # (images, groups, channels of a group, *space)
    across = product.window is not None and product.groups > 1 and grid.shape[2] == 1 and width > 1  # depthwise: an event spans groups
    if across:
        grid = grid.transpose(1, 2)
    events, lengths = _merged(grid, width)
    if across:  # every block of groups has windows of its own
        vectors = _gathered(product.window, events.squeeze(1).to(_EXACT))
        channels = (lengths * product.channels).reshape(-1, *[1] * (vectors.ndim - 2))
        macs = updates = _sum(vectors * channels)
        touched = _sum((vectors > 0) * channels)
        units = vectors * torch.ceil(channels / accelerator.columns)
    else:
        vectors = _gathered(product.window, events.sum(2, dtype=_EXACT))
        taps = vectors if width == 1 else _gathered(product.window, (events * lengths.reshape(-1, *[1] * (grid.ndim - 3))).sum(2))
        macs, updates = _sum(taps) * product.channels, _sum(vectors) * product.channels
        touched = _sum(vectors > 0) * product.channels
        units = taps
    places = units[:, 0].numel() // calls
    cores = Cores(accelerator.rows, accelerator.columns, product.channels, places, width if across else 1)
    busiest, total = _dealt(units, calls, cores)
    sums = (_sum(events), macs, updates, busiest, total, touched)
    return Events(_sum(active) / max(1, active.numel()), *(one / calls for one in sums))


def _sum(counts: Tensor) -> float:
    """Exact for counts, however many."""
    return float(counts.sum(dtype=torch.float64))


def _grid(product: Product, active: Tensor) -> Tensor:
    """Inputs as (images, groups, channels, *space); of a matrix product as (calls, groups, depth, rows)."""
    window = product.window
    if window is not None:
        return active.reshape(-1, product.groups, _channels(product, window), *window.inputs)
    if product.spread:
        return _spread(product, active)
    if product.by_column:
        grid = active.reshape(len(active), -1, product.depth, product.rows)
    else:
        grid = active.reshape(len(active), -1, product.rows, product.depth).transpose(2, 3)
    return grid.repeat(1, product.groups // grid.shape[1], 1, 1)  # where a batch shares them


def _spread(product: Product, active: Tensor) -> Tensor:
    """The same where inputs have a batch: axes along which weights differ are groups, along the others there are more rows."""
    shape = product.shape if len(product.shape) > 1 else (1, *product.shape)
    if product.by_column and len(product.shape) == 1:
        shape = (*product.shape, 1)
    ahead = (1,) * (len(product.spread) - len(shape) + 2) + shape[:-2]
    grid = active.reshape(len(active), *ahead, *shape[-2:])
    grid = grid if product.by_column else grid.transpose(-1, -2)  # (calls, *ahead, depth, rows)
    sizes = [max(size, there) for size, there in zip(product.spread, ahead, strict=True)]  # some weights share an input
    grid = grid.expand(len(active), *sizes, *grid.shape[-2:])
    apart = [axis for axis, size in enumerate(product.spread, 1) if size > 1]
    along = [axis for axis, size in enumerate(product.spread, 1) if size == 1]
    return grid.permute(0, *apart, grid.ndim - 2, *along, grid.ndim - 1).reshape(len(active), product.groups, product.depth, product.rows)


def _channels(product: Product, window: Window) -> int:
    return product.depth if window.transposed else product.depth // math.prod(window.kernel)


def _merged(grid: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Channels in blocks of `width`: which blocks hold an event, and how many channels each block has."""
    channels = grid.shape[2]
    if width == 1:
        return grid, torch.ones(channels, dtype=_EXACT)
    blocks = -(-channels // width)
    filled = torch.cat([grid, grid.new_zeros((*grid.shape[:2], blocks * width - channels, *grid.shape[3:]))], 2)
    lengths = torch.full((blocks,), float(width), dtype=_EXACT)
    lengths[-1] = channels - (blocks - 1) * width
    return filled.reshape(*filled.shape[:2], blocks, width, *filled.shape[3:]).any(3), lengths


def _gathered(window: Window | None, counts: Tensor) -> Tensor:
    """(images, groups, *space) of counts at the inputs, summed over the window of each place of the result."""
    if window is None or _is_one_to_one(window):
        return counts
    flat = counts.reshape(-1, 1, *window.inputs)
    ones = torch.ones((1, 1, *window.kernel), dtype=counts.dtype)
    axes = len(window.kernel)
    if window.transposed:
        back = [before for before, _ in window.padding]
        sizes = zip(window.inputs, window.outputs, window.kernel, window.stride, window.padding, window.dilation, strict=True)
        extra = [out - ((size - 1) * step - 2 * pad[0] + spread * (taps - 1) + 1) for size, out, taps, step, pad, spread in sizes]
        call = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[axes - 1]
        found = call(flat, ones, None, window.stride, back, extra, 1, window.dilation)
    else:
        padded = F.pad(flat, [width for pair in reversed(window.padding) for width in pair])
        found = (F.conv1d, F.conv2d, F.conv3d)[axes - 1](padded, ones, None, window.stride, 0, window.dilation)
    return torch.round(found).reshape(*counts.shape[:2], *window.outputs)  # whatever algorithm it was, counts are whole


def _is_one_to_one(window: Window) -> bool:
    return window.inputs == window.outputs and {*window.kernel, *window.stride} == {1} and not any(map(any, window.padding))


def _dealt(units: Tensor, calls: int, cores: Cores) -> tuple[float, float]:
    """Cycles of the core that has most in each call, and of all cores, summed over calls.

    units: work at (images, groups, *space), or blocks of groups that share units; `cores.chunks` units of neighbouring channels do it.
    """
    groups = units.shape[1]
    work = units.reshape(calls, -1, groups, units[0, 0].numel()).transpose(1, 2).reshape(calls, groups, 1, cores.places)
    group, chunk, place = (torch.arange(size) for size in (groups, cores.chunks, cores.places))
    owners = cores.core(group[:, None, None] * cores.together, chunk[:, None] * cores.columns, place).reshape(-1)
    shares = torch.zeros((calls, cores.rows), dtype=torch.float64)
    shares.index_add_(1, owners, work.expand(-1, -1, cores.chunks, -1).reshape(calls, -1).to(torch.float64))
    return _sum(shares.amax(1)), _sum(shares)
