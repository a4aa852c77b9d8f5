"""Quantised convolutions over channels-last images, and products with a stored matrix, in tiles of integer sums (see `integer`).

Neighbouring taps of the last window axis lie side by side in memory with their channels: they are one run, so that an image of three
channels wastes no lane of an instruction that takes four.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from effc.lowering.kernels.code import flat_function
from effc.lowering.kernels.fused import Fused, NotInlinableError
from effc.lowering.kernels.implementation import Implementation
from effc.lowering.kernels.integer import Sums, kernel
from effc.lowering.kernels.integer_dots import Dot, bytes_dot, signed_dot
from effc.lowering.kernels.integer_left import left_operand
from effc.lowering.kernels.packing import Computed
from effc.targets import Target

__all__ = ["convolution", "operands", "product"]


def convolution(fused: Fused, fixed: Sequence[bool], target: Target) -> Implementation | None:
    """The convolution of centred bytes and stored integers; None where the function holds none."""
    if fused.kind != "integer_convolution":
        return None
    x, zero, argument, weights = operands(fused)
    if not fixed[argument]:
        return None
    batch, *sizes, depth = (int(size) for size in x.shape)
    features, *window, channels = (int(size) for size in weights.shape)
    strides, dilation, before, after = (fused.numbers(key) for key in ("strides", "dilation", "before", "after"))
    groups, positions = fused.number("groups"), fused.anchor.extents[1 : 1 + len(sizes)]
    together = dilation[-1] == 1 and groups == 1
    taps, run = (tuple(window[:-1]), window[-1] * channels) if together else (tuple(window), channels)
    dot = _dot(weights, target)
    left = left_operand(x, zero, dot, run, before, after)
    epilogue = fused.epilogue()
    flat = math.prod(window) == 1 and set(strides) == {1} and left.sizes[1:-1] == positions
    outer = [] if flat else [batch, *positions[:-1]]
    width = batch * math.prod(positions) if flat else positions[-1]

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

    def result(line: Any, position: Any, channel: Any, value: Any) -> Any:
        where = places(position, [batch, *positions]) if flat else [*places(line, outer), position]
        return epilogue.store([*where, channel], value)

    sums = Sums(math.prod(outer), width, groups, features // groups, taps, run, place, result)
    body, packed, packing = kernel(sums, left, dot, target)
    return _implementation(fused, body, argument, packed, packing, "integer_conv")


def product(fused: Fused, fixed: Sequence[bool], target: Target) -> Implementation | None:
    """The product of centred bytes with a stored matrix; None where the function holds none."""
    if fused.kind != "integer_matmul":
        return None
    x, zero, argument, weights = operands(fused)
    if not fixed[argument]:
        return None
    *batch, rows, depth = (int(size) for size in x.shape)
    columns = int(weights.shape[1])
    dot = _dot(weights, target)
    left = left_operand(x, zero, dot, depth)
    epilogue = fused.epilogue()

    def result(line: Any, position: Any, channel: Any, value: Any) -> Any:
        return epilogue.store([*places(position, [*batch, rows]), channel], value)

    sums = Sums(
        lines=1,
        width=math.prod(batch) * rows,
        groups=1,
        outputs=columns,
        taps=(),
        run=depth,
        place=lambda line, position, taps, group: position * depth,
        result=result,
    )
    body, packed, packing = kernel(sums, left, dot, target)
    turned = Computed(f"transposed, {packing.name}", lambda array: packing.compute(array.T))
    return _implementation(fused, body, argument, packed, turned, "integer_matmul")


def operands(fused: Fused) -> tuple[Any, Any, int, Any]:
    """(bytes, their zero point, which argument holds the weights, the weights). Raises NotInlinableError where one is computed here."""
    source, weights = fused.reads()
    block = fused.source(source)
    if block is not None and "effc.pad" in block.annotations:
        (source,) = fused.reads(block)
        block = fused.source(source)
    argument = fused.argument(weights)
    if block is None or "effc.centred" not in block.annotations or argument is None:
        raise NotInlinableError("operands that the function computes")
    x, zero = fused.reads(block)
    if fused.argument(x) is None or fused.argument(zero) is None:
        raise NotInlinableError("bytes that the function computes")
    return x, zero, argument, weights


def _dot(weights: Any, target: Target) -> Dot:
    kind = str(weights.dtype)
    fast = bytes_dot(target) if kind == "int8" else None
    return fast if fast is not None else signed_dot(target, kind)


def _implementation(fused: Fused, body: Any, argument: int, packed: Any, packing: Computed, family: str) -> Implementation:
    arguments = [packed if index == argument else buffer for index, buffer in enumerate(fused.arguments)]
    return Implementation(flat_function(arguments, body), family, {argument: packing})


def places(number: Any, sizes: Sequence[int]) -> list[Any]:
    """The index along axes of given sizes of what is counted through all of them."""
    found = []
    for size in reversed(sizes):
        found.append(number % size)
        number = number // size
    return list(reversed(found))
