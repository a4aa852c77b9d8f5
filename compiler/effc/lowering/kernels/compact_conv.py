"""Small convolutions: of float32 and of integers, of any number of spatial axes, window, padding, stride, dilation and groups.

    for every position, for every few output channels:
        for every tap inside of the image, for every input channel:  sums += image * weights
        for every sum:                                               what follows the convolution

Weights lie in the order in which the loops read them. Neighbouring taps of the last axis are one run in the image and in the weights, where
no dilation and no groups lie between. Bytes are read where they lie, and their zero point is subtracted as they are read; sums of integers
are exact in int32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from effc.cost.tiles import register_tile
from effc.lowering.kernels.code import allocated, floats, integer, load, local, loop, sequence, store
from effc.lowering.kernels.compact_windows import (
    Result,
    Sliding,
    Taps,
    Window,
    everywhere,
    number,
    steps,
    stored_sums,
    taps,
)
from effc.lowering.kernels.conv import read
from effc.lowering.kernels.fused import Fused
from effc.lowering.kernels.implementation import Implementation
from effc.lowering.kernels.integer_vectors import centred_bytes, only
from effc.lowering.kernels.packing import Packed
from effc.targets import Target

__all__ = ["Image", "convolution", "depthwise", "image_of", "sliding_convolution", "sliding_depthwise"]


@dataclass(frozen=True)
class Image:
    """What a convolution reads, and how.

    Attributes:
        window: where its windows lie.
        weight: which argument holds the weights, `[feature][taps...][channel of the group]`.
        channels: input channels of one group. features: output channels of all groups.
        groups: how many.
        dtype: of the sums.
        element: an element as a number of that type, at (image, places..., channel).
        flat: the same by its number in the image's memory; None where the function computes the elements.
        setup: buffers, and statements that must run first.
    """

    window: Window
    weight: int
    channels: int
    features: int
    groups: int
    dtype: str
    element: Callable[[Any, Sequence[Any], Any], Any]
    flat: Callable[[Any], Any] | None
    setup: tuple[list[Any], list[Any]]


def convolution(fused: Fused, fixed: Sequence[bool], target: Target) -> Implementation | None:
    """The convolution of a function; None where it is none, or its weights are not stored."""
    return everywhere(sliding_convolution(fused, fixed))


def depthwise(fused: Fused, fixed: Sequence[bool], target: Target) -> Implementation | None:
    """A convolution with one input and one output channel in each group, and stored weights; else None."""
    return everywhere(sliding_depthwise(fused, fixed))


def sliding_convolution(fused: Fused, fixed: Sequence[bool], result: Result | None = None) -> Sliding | None:
    """What `convolution` computes at a position; `result` is the statement for (index of an element, its sum), else it is stored."""
    image = image_of(fused, fixed)
    if image is None:
        return None
    outputs = image.features // image.groups
    tile = register_tile(outputs, image.dtype, whole=image.groups > 1)
    packing = Packed(tuple(range(len(image.window.taps) + 2)), ((0, tile),))
    return _sliding(fused, image, _Dense(fused, image, tile, result or fused.epilogue().store), packing, "conv")


def sliding_depthwise(fused: Fused, fixed: Sequence[bool], result: Result | None = None) -> Sliding | None:
    """What `depthwise` computes at a position; `result` as above."""
    image = image_of(fused, fixed)
    if image is None or image.groups == 1 or image.channels != 1 or image.features != image.groups:
        return None
    loops, rank = _Depthwise(fused, image, result or fused.epilogue().store), len(image.window.taps)
    return _sliding(fused, image, loops, Packed((*range(1, rank + 1), rank + 1, 0)), "depthwise")


def image_of(fused: Fused, fixed: Sequence[bool]) -> Image | None:
    """What the convolution of a function reads; None where there is none, or its weights are not stored."""
    if fused.kind == "convolution":
        return _floats(fused, fixed)
    return _integers(fused, fixed) if fused.kind == "integer_convolution" else None


def _floats(fused: Fused, fixed: Sequence[bool]) -> Image | None:
    conv = read(fused)
    if not fixed[conv.weight] or str(fused.anchor.buffer.dtype) != "float32":
        return None
    window = Window(conv.batch, conv.sizes, conv.positions, conv.window, conv.strides, conv.dilation, conv.before)
    front = [integer(0)] * (len(conv.sizes) + 1)
    return Image(
        window=window,
        weight=conv.weight,
        channels=conv.channels,
        features=conv.features,
        groups=conv.groups,
        dtype="float32",
        element=lambda image, places, channel: fused.value(conv.input, [image, *places, channel]),
        flat=(lambda place: load(conv.input, [*front, place])) if fused.argument(conv.input) is not None else None,
        setup=([], []),
    )


def _integers(fused: Fused, fixed: Sequence[bool]) -> Image | None:
    from tvm import tirx

    source, weights = fused.reads()
    argument = fused.argument(weights)
    if argument is None or not fixed[argument]:
        return None
    x, point = centred_bytes(fused, source)
    batch, *sizes, _ = (int(size) for size in x.shape)
    features, *window, channels = (int(size) for size in weights.shape)
    zero = local(1, "zero", "int32")
    front = [integer(0)] * (len(sizes) + 1)

    def centred(value: Any) -> Any:
        return tirx.Cast("int32", value) - load(zero, [0])

    return Image(
        window=Window(
            batch,
            tuple(sizes),
            fused.anchor.extents[1 : 1 + len(sizes)],
            tuple(window),
            fused.numbers("strides"),
            fused.numbers("dilation"),
            fused.numbers("before"),
        ),
        weight=argument,
        channels=channels,
        features=features,
        groups=fused.number("groups"),
        dtype="int32",
        element=lambda image, places, channel: centred(load(x, [image, *places, channel])),
        flat=lambda place: centred(load(x, [*front, place])),
        setup=([zero], [store(zero, tirx.Cast("int32", only(point)), [0])]),
    )


def _sliding(fused: Fused, image: Image, loops: _Dense | _Depthwise, packing: Packed, family: str) -> Sliding:
    arguments = [loops.packed if index == image.weight else buffer for index, buffer in enumerate(fused.arguments)]
    name = family if image.dtype == "float32" else f"integer_{family}"
    return Sliding(image.window, loops.position, arguments, {image.weight: packing}, name, image.setup)


def _weight(value: Any, dtype: str) -> Any:
    from tvm import tirx

    return value if str(value.ty.dtype) == dtype else tirx.Cast(dtype, value)


def _nothing(dtype: str) -> Any:
    return floats(0.0) if dtype == "float32" else integer(0)


class _Dense:
    """All input channels of a group go into each of its output channels."""

    def __init__(self, fused: Fused, image: Image, tile: int, result: Result) -> None:
        from tvm import tirx

        self.image, self.tile, self.result = image, tile, result
        self.outputs = image.features // image.groups
        self.blocks = -(-self.outputs // tile)
        dtype = str(fused.arguments[image.weight].dtype)
        shape = (image.groups * self.blocks, *image.window.taps, image.channels, tile)
        self.elements = math.prod(image.window.taps) * image.channels  # of a block, each `tile` weights
        self.packed = tirx.decl_buffer(shape, dtype, name="packed")

    def position(self, image: Any, at: list[Any], inside: list[Taps]) -> Any:
        def group_of(group: Any) -> Any:
            return loop(self.blocks, lambda block: self._block(image, at, inside, group, block), name="block")

        return loop(self.image.groups, group_of, name="group")

    def _block(self, image: Any, at: list[Any], inside: list[Taps], group: Any, block: Any) -> Any:
        from tvm import tirx

        rest = self.outputs % self.tile
        count = tirx.min(self.tile, self.outputs - block * self.tile) if rest and self.blocks > 1 else rest or self.tile
        many = self.image.groups > 1
        return stored_sums(
            group * self.outputs + block * self.tile if many else block * self.tile,
            self.tile,
            count,
            self.image.dtype,
            _nothing(self.image.dtype),
            lambda sums: self._sum(image, inside, group if many else integer(0), group * self.blocks + block if many else block, sums),
            lambda channel, value: self.result([image, *at, channel], value),
        )

    def _sum(self, image: Any, inside: list[Taps], group: Any, block: Any, sums: list[Any]) -> Any:
        window, channels, last = self.image.window, self.image.channels, inside[-1]
        if self.image.flat is not None and window.dilation[-1] == 1 and self.image.groups == 1:

            def row(found: list[Any], places: list[Any]) -> Any:
                place = image
                for size, one in zip(window.sizes, [*places, last.place(last.first)], strict=True):
                    place = place * size + one
                return self._run(place * channels, self._weights(block, [*found, last.first]), last.count, sums)

            return taps(inside[:-1], row)

        def tap(found: list[Any], places: list[Any]) -> Any:
            start, buffers, setting = number(self._weights(block, found), "at")

            def one(channel: Any) -> Any:
                element = self.image.element(image, places, group * channels + channel if self.image.groups > 1 else channel)
                return self._add(element, start + channel * self.tile, sums)

            return allocated(buffers, [*setting, steps(channels, self.image.dtype, 1, one, "c")])

        return taps(inside, tap)

    def _weights(self, block: Any, found: Sequence[Any]) -> Any:
        """The number of the first weight of a block for a tap."""
        place = block
        for size, tap in zip(self.image.window.taps, found, strict=True):
            place = place * size + tap
        return place * (self.image.channels * self.tile)

    def _run(self, place: Any, weights: Any, count: Any, sums: list[Any]) -> Any:
        """Products of `count` taps and their channels, which lie side by side."""
        assert self.image.flat is not None
        flat = self.image.flat
        left, held, setting = number(place, "from_")
        right, more, also = number(weights, "at")

        def one(i: Any) -> Any:
            return self._add(flat(left + i), right + i * self.tile, sums)

        return allocated([*held, *more], [*setting, *also, steps(self.image.channels, self.image.dtype, count, one, "c")])

    def _add(self, element: Any, weights: Any, sums: list[Any]) -> Any:
        """One element of the image times its weights, to the sums."""
        dtype = self.image.dtype
        value = local(1, "value", dtype)
        front = [integer(0)] * (len(self.packed.shape) - 1)
        statements = [store(value, element, [0])]
        for i, one in enumerate(sums):
            weight = _weight(load(self.packed, [*front, weights + i]), dtype)
            statements.append(store(one, load(one, [0]) + load(value, [0]) * weight, [0]))
        return allocated([value], statements)


class _Depthwise:
    """Every channel has a filter of its own."""

    def __init__(self, fused: Fused, image: Image, result: Result) -> None:
        from tvm import tirx

        self.image, self.result = image, result
        self.tile = register_tile(image.features, image.dtype, whole=True)
        dtype = str(fused.arguments[image.weight].dtype)
        self.packed = tirx.decl_buffer((*image.window.taps, 1, image.features), dtype, name="packed")

    def position(self, image: Any, at: list[Any], inside: list[Taps]) -> Any:
        def block(number: Any) -> Any:
            channel = number * self.tile
            return stored_sums(
                channel,
                self.tile,
                self.tile,
                self.image.dtype,
                _nothing(self.image.dtype),
                lambda sums: taps(inside, lambda found, places: self._tap(image, found, places, channel, sums)),
                lambda one, value: self.result([image, *at, one], value),
            )

        return loop(self.image.features // self.tile, block, name="block")

    def _tap(self, image: Any, found: list[Any], places: list[Any], channel: Any, sums: list[Any]) -> Any:
        statements = []
        for i, one in enumerate(sums):
            weight = _weight(load(self.packed, [*found, 0, channel + i]), self.image.dtype)
            statements.append(store(one, load(one, [0]) + self.image.element(image, places, channel + i) * weight, [0]))
        return sequence(statements)
