"""Convolutions over channels-last images, of any number of spatial axes, window, stride, padding, dilation and groups: direct, in tiles.

Output channels fill the vectors, positions of a row share each weight (`products`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from effc.lowering.kernels.code import flat_function, load
from effc.lowering.kernels.fused import Fused
from effc.lowering.kernels.implementation import Implementation
from effc.lowering.kernels.inlining import NotInlinableError
from effc.lowering.kernels.packing import Packed
from effc.lowering.kernels.products import Product, loops
from effc.lowering.kernels.tiles import Choice, divisors, lanes_of, ranked
from effc.targets import Target

__all__ = ["Convolution", "choice", "direct", "read"]


@dataclass(frozen=True)
class Convolution:
    """A convolution anchor: `result[n, o..., f] += input[n, o * stride + k * dilation - before, g, c] * weight[f, k..., c]`.

    Attributes:
        input: the buffer in front of the padding. weight: which argument of the function holds the weights.
        sizes, outputs, window: of the spatial axes. before: padding in front.
        batch, channels, features: images, input channels of one group, output channels of all groups.
    """

    input: Any
    weight: int
    batch: int
    sizes: tuple[int, ...]
    positions: tuple[int, ...]
    window: tuple[int, ...]
    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    before: tuple[int, ...]
    channels: int
    features: int
    groups: int


def read(fused: Fused) -> Convolution:
    """The convolution of a fused function. Raises NotInlinableError when its weights are computed in the function."""
    padded, weight = fused.reads()
    source = fused.source(padded)
    if source is not None and "effc.pad" in source.annotations:
        (padded,) = fused.reads(source)
    argument = fused.argument(weight)
    if argument is None:
        raise NotInlinableError("weights that the function computes")
    batch, *sizes, _ = (int(size) for size in padded.shape)
    features, *window, channels = (int(size) for size in weight.shape)
    return Convolution(
        input=padded,
        weight=argument,
        batch=batch,
        sizes=tuple(sizes),
        positions=fused.anchor.extents[1 : 1 + len(sizes)],
        window=tuple(window),
        strides=fused.numbers("strides"),
        dilation=fused.numbers("dilation"),
        before=fused.numbers("before"),
        channels=channels,
        features=features,
        groups=fused.number("groups"),
    )


def direct(fused: Fused, fixed: Sequence[bool], target: Target) -> Implementation | None:
    """The convolution of a function as tiles; None where it is none, or its weights are not stored."""
    from tvm import tirx

    if fused.kind != "convolution":
        return None
    conv = read(fused)
    if not fixed[conv.weight] or str(fused.anchor.buffer.dtype) != "float32":
        return None
    lanes = _lanes(conv, target)
    choice = _choice(conv, target)
    tile = choice.tile(fused.options.tiles)
    outputs = conv.features // conv.groups
    block = tile.vectors * lanes
    blocks = conv.groups * -(-outputs // block)
    packed = tirx.decl_buffer((blocks, *conv.window, conv.channels, block), "float32", name="packed")
    body = loops(_product(fused, conv, packed), tile, lanes, target)
    arguments = [packed if index == conv.weight else buffer for index, buffer in enumerate(fused.arguments)]
    packing = Packed(tuple(range(len(conv.window) + 2)), ((0, block),))
    note = choice.note(tile, lanes, fused.options.tiles)
    return Implementation(flat_function(arguments, body), "conv", {conv.weight: packing}, note, choice.key)


def choice(fused: Fused, fixed: Sequence[bool], target: Target) -> Choice | None:
    """The tiles that `direct` may use; None for what it does not take."""
    if fused.kind != "convolution" or str(fused.anchor.buffer.dtype) != "float32":
        return None
    conv = read(fused)
    return _choice(conv, target) if fixed[conv.weight] else None


def _choice(conv: Convolution, target: Target) -> Choice:
    width, taps, lanes = conv.positions[-1], math.prod(conv.window), _lanes(conv, target)
    reach = (width - 1) * conv.strides[-1] - conv.before[-1] + (conv.window[-1] - 1) * conv.dilation[-1]
    edges = (conv.before[-1] > 0) + (reach >= conv.sizes[-1])
    outputs = conv.features // conv.groups
    tiles = ranked(width, outputs, conv.channels, lanes, target.registers, taps=taps, edges=edges)
    if conv.groups > 1:  # blocks of channels must not reach into the next group
        tiles = tuple(tile for tile in tiles if outputs % (tile.vectors * lanes) == 0)
    names = ("strides", "dilation", "before", "window", "positions")
    sizes = " ".join(f"{name[0]}{'x'.join(map(str, getattr(conv, name)))}" for name in names)
    return Choice(f"conv {conv.batch}x{'x'.join(map(str, conv.sizes))}x{conv.channels}*{conv.groups} f{conv.features} {sizes}", tiles)


def _lanes(conv: Convolution, target: Target) -> int:
    """Lanes of a vector; with groups, a divisor of a group's channels."""
    lanes, outputs = lanes_of(target, "float32"), conv.features // conv.groups
    if conv.groups == 1 or outputs % lanes == 0:
        return lanes
    return max(divisor for divisor in divisors(outputs) if divisor <= lanes and divisor & (divisor - 1) == 0)


def _product(fused: Fused, conv: Convolution, packed: Any) -> Product:
    from tvm import tirx

    epilogue = fused.epilogue()
    outer_axes = range(len(conv.sizes) - 1)
    width, stride, dilation, before, size = (sizes[-1] for sizes in (conv.positions, conv.strides, conv.dilation, conv.before, conv.sizes))

    def places(line: Any) -> list[Any]:
        """Image and outer positions of a line."""
        found = []
        for axis in reversed(outer_axes):
            found.append(line % conv.positions[axis])
            line = line // conv.positions[axis]
        return [line, *reversed(found)]

    def outer(line: Any) -> list[tuple[Any, Any]]:
        ranges: list[tuple[Any, Any]] = []
        for axis, at in zip(outer_axes, places(line)[1:], strict=True):
            step, taps = conv.dilation[axis], conv.window[axis]
            start = at * conv.strides[axis]
            last = (conv.positions[axis] - 1) * conv.strides[axis] - conv.before[axis] + (taps - 1) * step
            first: Any = 0
            end: Any = taps
            if conv.before[axis] > 0:
                # TVM simplifies a division of what may be negative wrongly, here: nothing negative is divided.
                first = (tirx.max(conv.before[axis] - start, 0) + step - 1) // step
            if last >= conv.sizes[axis]:
                end = tirx.min(taps, (tirx.max(conv.sizes[axis] + conv.before[axis] - start, 0) + step - 1) // step)
            extent = end - first
            ranges.append((first, extent if isinstance(extent, int) else tirx.max(extent, 0)))
        return ranges

    def left(line: Any, position: Any, taps: Sequence[Any], tap: Any, group: Any, depth: Any) -> Any:
        image, *rows = places(line)
        rows = [row * conv.strides[axis] + taps[axis] * conv.dilation[axis] - conv.before[axis] for axis, row in enumerate(rows)]
        column = position * stride + tap * dilation - before
        return fused.value(conv.input, [image, *rows, column, group * conv.channels + depth if conv.groups > 1 else depth])

    def result(line: Any, position: Any, channel: Any, value: Any) -> Any:
        return epilogue.store([*places(line), position, channel], value)

    return Product(
        lines=conv.batch * math.prod(conv.positions[:-1]),
        width=width,
        groups=conv.groups,
        outputs=conv.features // conv.groups,
        depth=conv.channels,
        outer=outer,
        outer_taps=conv.window[:-1],
        taps=conv.window[-1],
        reaches=lambda tap, position: 0 <= position * stride + tap * dilation - before < size,
        left=left,
        right=lambda line, block, outer, tap, depth, lane: load(packed, [block, *outer, tap, depth, lane]),
        result=result,
        ahead=lambda block, number: load(packed, [block + 1, *[0] * (len(conv.window) + 1), number * 16]),
        contiguous=dilation == 1 and conv.groups == 1 and fused.argument(conv.input) is not None,
        line_bytes=4 * size * conv.channels * conv.groups * (conv.strides[0] if outer_axes else 1),
    )
