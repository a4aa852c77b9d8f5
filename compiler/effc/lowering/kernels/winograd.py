"""Convolutions with windows of 3 x 3, stride 1, by Winograd's algorithm, where it pays and its error stays small.

Lavin and Gray (arXiv 1509.09308, equation 8): with d an alpha x alpha piece of a channel of the input and g the window of weights,

    Y = A^T [ sum over channels of (G g G^T) * (B^T d B) ] A,        alpha = m + 2

gives m x m positions of the output for alpha^2 products per channel, where the definition takes 9 m^2: F(2x2, 3x3) has 16 for 36, and
F(4x4, 3x3) 36 for 144. G g G^T is computed when compiling. The products are sums over channels for many pieces at once, thus alpha^2
matrix products (`winograd_loops`); the transforms are additions, mostly (`winograd_transforms`).

It pays where the products saved outweigh the transforms and the traffic of larger weights: with some 16 channels and more, on maps that
are not too small. `_cost` says how much, in cycles, by the same model as for direct convolutions (`tiles`).

What changes: sums are rounded differently, and more. The error is measured when compiling, on random input and the real weights, and a
layer whose error is beyond `BOUND` stays direct. A NaN or infinity in the input reaches all positions of the pieces that it is in, which
are up to m - 1 positions further than its window's; so does an overflow of the transformed values, from about 1e37 on.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from effc.lowering.kernels.conv import Convolution, read
from effc.lowering.kernels.fused import Fused
from effc.lowering.kernels.implementation import Implementation
from effc.lowering.kernels.packing import Computed
from effc.lowering.kernels.tiles import choose, cycles, lanes_of
from effc.lowering.kernels.winograd_loops import Work, function
from effc.lowering.kernels.winograd_transforms import F2, F4, Form, transformed_inputs, transformed_results, transformed_weights
from effc.targets import Target

__all__ = ["BOUND", "convolution", "measured_error"]

Array = np.ndarray[Any, Any]

BOUND = 2.5e-5  # most error, of the largest result
_GAIN = 1.25  # least predicted gain: below, it is not worth the larger weights and the error
_NEAR, _FAR = 3.0, 8.0  # cycles that a cache line costs from another core's second-level cache, and from beyond
_PHASE = 6000.0  # cycles that it takes to start the threads
_TASKS = 16  # tasks of many chunks
_SAMPLE = 64  # output channels on which the error is measured


@dataclass(frozen=True)
class _Weights:
    """G g G^T of weights `[feature, 3, 3, channel]`, as the kernel takes them."""

    form: Form
    block: int

    def __call__(self, weight: Array) -> Array:
        features, _, _, channels = weight.shape
        flat = transformed_weights(self.form, weight).reshape(-1, channels, features)
        blocks = np.pad(flat, [(0, 0), (0, 0), (0, -features % self.block)]).reshape(len(flat), channels, -1, self.block)
        return blocks.transpose(0, 2, 1, 3)


def convolution(fused: Fused, fixed: Sequence[bool], target: Target) -> Implementation | None:
    """The convolution of a function by Winograd's algorithm; None where it cannot be, does not pay, is not wanted or not exact enough."""
    if fused.kind != "convolution" or fused.options.winograd == "off":
        return None
    conv = read(fused)
    weight = fused.values.get(conv.weight)
    if not fixed[conv.weight] or weight is None or str(fused.anchor.buffer.dtype) != "float32" or conv.window != (3, 3):
        return None
    if not _is_plain(conv):
        fused.reasons.append("not Winograd: it is for stride 1, without dilation and groups")
        return None
    wanted = _wanted(conv, fused.options.winograd, target)
    if not wanted:
        fused.reasons.append("not Winograd: by the model it is not faster here")
    for work in wanted:
        error = measured_error(work.form, weight)
        if error <= BOUND:
            packing = Computed(f"winograd {work.form.name}", _Weights(work.form, work.block))
            note = f"{work.form.title}, measured error {error:.0e} of the largest result"
            return Implementation(function(fused, conv, work, target), "winograd", {conv.weight: packing}, note, depends_on_values=True)
        fused.remarks.append(f"not Winograd {work.form.title}: its error {error:.0e} is over {BOUND:.1e} of the largest result")
    return None


def _is_plain(conv: Convolution) -> bool:
    ones, sizes = (1, 1), (conv.batch, *conv.positions, conv.channels, conv.features)
    return conv.window == (3, 3) and conv.strides == conv.dilation == ones and conv.groups == 1 and min(sizes) > 0


def measured_error(form: Form, weight: Array) -> float:
    """The largest error of the algorithm in float32, on random pieces of input, as a part of the largest result.

    Args:
        form: the algorithm.
        weight: `[feature, 3, 3, channel]`.
    """
    some = weight[:: max(1, len(weight) // _SAMPLE)]
    pieces = np.random.default_rng(0).standard_normal((4, form.alpha, form.alpha, weight.shape[-1]), dtype=np.float32)
    exact = np.zeros((len(pieces), form.outputs, form.outputs, len(some)))
    with np.errstate(over="ignore", invalid="ignore"):  # weights may be anything: what comes of it is no number, and no small error
        inputs, weights = transformed_inputs(form, pieces), transformed_weights(form, some)
        sums = np.zeros((form.alpha, form.alpha, len(pieces), len(some)), np.float32)
        for channel in range(weight.shape[-1]):  # one by one, as the kernel adds
            sums += inputs[..., channel, None] * weights[:, :, None, channel]
        for row, column in np.ndindex(3, 3):
            window = pieces[:, row : row + form.outputs, column : column + form.outputs].astype(np.float64)
            exact += window @ some[:, row, column].astype(np.float64).T
        error = float(np.abs(transformed_results(form, sums) - exact).max())
        largest = float(np.abs(exact).max())
    return error / largest if largest > 0 else error


def _wanted(conv: Convolution, option: str, target: Target) -> list[Work]:
    """The forms that are worth trying, each with its best work, the best form first."""
    sizes = conv.batch, conv.positions, conv.channels, conv.features
    found = [_best(form, *sizes, target) for form in (F2, F4) if option in ("auto", form.name)]
    most = _direct(*sizes, target) / _GAIN if option == "auto" else math.inf
    return [work for cost, work in sorted(found, key=lambda one: one[0]) if cost <= most]


# ---- the model ---------------------------------------------------------------------------------------------------------------------


@functools.cache
def _best(form: Form, batch: int, positions: tuple[int, ...], channels: int, features: int, target: Target) -> tuple[float, Work]:
    """The fastest way to cut a convolution by the model, after what it costs."""
    tiles = batch * math.prod(-(-size // form.outputs) for size in positions)
    lanes = lanes_of(target, "float32")

    def cost(work: Work) -> float:
        return _cost(work, tiles, channels, features, target)

    works = []
    for chunk, tasks in _cuts(tiles):
        tile = choose(chunk, features, channels, lanes, target.registers)
        works.append(Work(form, chunk, tasks, tile, lanes))
    best = min(works, key=cost)
    return cost(best), best


def _cuts(tiles: int) -> Iterator[tuple[int, int]]:
    """(tiles of a chunk, tasks) among which the model chooses."""
    for chunks in (1, 2, 3, 4, 6, 8, 12, 16):
        if chunks <= tiles:
            yield -(-tiles // chunks), 0
    for tasks, each in ((8, 1), (12, 1), (14, 1), *((_TASKS, 2**power) for power in range(10))):
        if tasks * each <= tiles:
            chunk = -(-tiles // (tasks * each))
            yield chunk, -(-tiles // (chunk * each))


def _cost(work: Work, tiles: int, channels: int, features: int, target: Target) -> float:
    """Cycles of one core: products, transforms, what moves beyond the second-level cache, and starting threads."""
    places, chunks, lanes = work.form.alpha**2, -(-tiles // work.chunk), work.lanes
    products = chunks * places * cycles(work.tile, work.chunk, features, channels, lanes)
    # A cycle for each vector that is read, computed or written, about: both ways of a tile's transforms.
    inputs, results = 6 * places, 2 * work.form.alpha * (work.form.alpha + work.form.outputs)
    transforms = tiles * (inputs * -(-channels // lanes) + results * -(-features // lanes))
    weights, buffers = places * channels * features // 16, places * work.chunk * (channels + features) // 16  # cache lines
    room = target.l2 // 2 // 64
    passes = 1 if work.tasks and weights <= room else chunks
    used = min(chunks, work.tasks) if work.tasks and buffers <= room else chunks
    moved = _moved(weights * passes, weights, target) + _moved(2 * buffers * used, buffers // 2, target)
    return products + transforms + moved + _PHASE * (3 * chunks if not work.tasks else 1)


def _moved(lines: float, once: float, target: Target) -> float:
    """What it costs to move cache lines, given how many of them take room at the same time."""
    return lines * (_NEAR if once <= target.l2 // 2 // 64 else _FAR)


@functools.cache
def _direct(batch: int, positions: tuple[int, ...], channels: int, features: int, target: Target) -> float:
    """The same for the direct convolution."""
    lanes, width = lanes_of(target, "float32"), positions[-1]
    tile = choose(width, features, channels, lanes, target.registers, taps=9, edges=2)
    line = cycles(tile, width, features, channels, lanes, taps=9, edges=2)
    weights = 9 * channels * features // 16
    return batch * math.prod(positions[:-1]) * line + _moved(weights, weights, target)
