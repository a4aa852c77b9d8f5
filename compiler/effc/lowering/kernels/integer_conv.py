"""Quantised convolutions over channels-last images, in tiles of integer sums (see `integer`).

Neighbouring taps of the last window axis lie side by side in memory with their channels: they are one run, so that an image of three
channels wastes no lane of an instruction that takes four.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from effc.lowering.kernels.code import flat_function
from effc.lowering.kernels.fused import Fused
from effc.lowering.kernels.implementation import Implementation
from effc.lowering.kernels.integer import Sums, kernel, layout, packing
from effc.lowering.kernels.integer_dots import bytes_dot, signed_dot
from effc.lowering.kernels.integer_left import left_operand
from effc.lowering.kernels.integer_vectors import centred_bytes, places
from effc.targets import Target

__all__ = ["convolution"]


def convolution(fused: Fused, fixed: Sequence[bool], target: Target) -> Implementation | None:
    """The convolution of centred bytes and stored integers; None where the function holds none."""
    if fused.kind != "integer_convolution":
        return None
    source, weights = fused.reads()
    argument = fused.argument(weights)
    if argument is None or not fixed[argument]:
        return None
    x, zero = centred_bytes(fused, source)
    batch, *sizes, depth = (int(size) for size in x.shape)
    features, *window, channels = (int(size) for size in weights.shape)
    strides, dilation, before, after = (fused.numbers(key) for key in ("strides", "dilation", "before", "after"))
    groups, positions = fused.number("groups"), fused.anchor.extents[1 : 1 + len(sizes)]
    together = dilation[-1] == 1 and groups == 1
    taps, run = (tuple(window[:-1]), window[-1] * channels) if together else (tuple(window), channels)
    kind = str(weights.dtype)
    dot = (bytes_dot(target) if kind == "int8" else None) or signed_dot(target, kind)
    left = left_operand(x, zero, dot, run, before, after)
    epilogue = fused.epilogue()
    flat = math.prod(window) == 1 and set(strides) == {1} and left.sizes[1:-1] == positions
    outer = [] if flat else [batch, *positions[:-1]]
    width = batch * math.prod(positions) if flat else positions[-1]
    outputs = features // groups

    def place(line: Any, position: Any, at: Sequence[Any], group: Any) -> Any:
        channel = group * channels if groups > 1 else 0
        if flat:
            return position * depth + channel
        image, *rows = places(line, outer)
        number = image
        for axis, row in enumerate((*rows, position)):
            inner = row * strides[axis]
            if axis < len(at):
                inner = inner + at[axis] * dilation[axis]
            number = number * left.sizes[axis + 1] + inner
        return number * depth + channel

    def result(line: Any, position: Any, group: Any, channel: Any, value: Any) -> Any:
        where = places(position, [batch, *positions]) if flat else [*places(line, outer), position]
        return epilogue.store([*where, group * outputs + channel if groups > 1 else channel], value)

    sums = Sums(math.prod(outer), width, groups, outputs, taps, run, place, result)
    plan = layout(sums, dot, target)
    arguments = [plan.packed if index == argument else buffer for index, buffer in enumerate(fused.arguments)]
    return Implementation(flat_function(arguments, kernel(sums, left, plan)), "integer_conv", {argument: packing(sums, plan)})
