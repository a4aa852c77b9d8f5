"""Pools over channels-last images: channels fill the vectors, windows leave out what lies outside the image (`windows`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from effc.lowering.kernels.code import flat_function
from effc.lowering.kernels.fused import Fused
from effc.lowering.kernels.implementation import Implementation
from effc.lowering.kernels.window_loops import loops
from effc.lowering.kernels.windows import Windows
from effc.targets import Target

__all__ = ["larger", "pool", "pooled"]


def pool(fused: Fused, fixed: Sequence[bool], target: Target) -> Implementation | None:
    """The maximum or the sum of each window (averages divide it behind); None for another function, or not of float32."""
    source = pooled(fused)
    if source is None:
        return None
    epilogue = fused.epilogue()
    batch, *sizes, channels = (int(size) for size in source.shape)
    largest = fused.kind == "max_pool"
    windows = Windows(
        batch=batch,
        channels=channels,
        sizes=tuple(sizes),
        positions=fused.anchor.extents[1 : 1 + len(sizes)],
        taps=fused.numbers("window"),
        strides=fused.numbers("strides"),
        dilation=fused.numbers("dilation"),
        before=fused.numbers("before"),
        start=-math.inf if largest else 0.0,
        element=lambda image, places, channel: fused.value(source, [image, *places, channel]),
        step=lambda value, element, taps, channel: larger(value, element) if largest else value + element,
        result=lambda image, positions, channel, value: epilogue.store([image, *positions, channel], value),
        join=larger if largest else lambda a, b: a + b,
        step_cost=1.0 if largest else 0.5,
    )
    return Implementation(flat_function(fused.arguments, loops(windows, target)), "pool")


def pooled(fused: Fused) -> Any:
    """The image in front of the padding that a pool of float32 slides over; None for another function."""
    if fused.kind not in ("max_pool", "sum_pool") or str(fused.anchor.buffer.dtype) != "float32":
        return None
    (source,) = fused.reads()
    block = fused.source(source)
    if block is not None and "effc.pad" in block.annotations:
        (source,) = fused.reads(block)
    return source


def larger(largest: Any, element: Any) -> Any:
    """The larger of two numbers, NaN where one is NaN: a machine's maximum hands on its second operand when either is NaN."""
    from tvm import tirx

    return tirx.Select(tirx.isnan(largest), largest, tirx.Select(largest > element, largest, element))
