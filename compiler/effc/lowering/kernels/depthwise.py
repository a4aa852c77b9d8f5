"""Depthwise convolutions: every channel has a filter of its own, channels fill the vectors (`windows`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from effc.lowering.kernels.code import flat_function, load
from effc.lowering.kernels.conv import read
from effc.lowering.kernels.fused import Fused
from effc.lowering.kernels.implementation import Implementation
from effc.lowering.kernels.packing import Packed
from effc.lowering.kernels.window_loops import loops
from effc.lowering.kernels.windows import Windows
from effc.targets import Target

__all__ = ["depthwise"]


def depthwise(fused: Fused, fixed: Sequence[bool], target: Target) -> Implementation | None:
    """A convolution with one input and one output channel in each group, and stored weights; else None."""
    if fused.kind != "convolution" or str(fused.anchor.buffer.dtype) != "float32":
        return None
    conv = read(fused)
    if conv.groups == 1 or conv.channels != 1 or conv.features != conv.groups or not fixed[conv.weight]:
        return None
    from tvm import tirx

    epilogue = fused.epilogue()
    rank = len(conv.sizes)
    packed = tirx.decl_buffer((*conv.window, 1, conv.features), "float32", name="packed")

    def step(value: Any, element: Any, taps: Sequence[Any], channel: Any) -> Any:
        return value + element * load(packed, [*taps, 0, channel])

    windows = Windows(
        batch=conv.batch,
        channels=conv.features,
        sizes=conv.sizes,
        positions=conv.positions,
        taps=conv.window,
        strides=conv.strides,
        dilation=conv.dilation,
        before=conv.before,
        start=0.0,
        element=lambda image, places, channel: fused.value(conv.input, [image, *places, channel]),
        step=step,
        result=lambda image, positions, channel, value: epilogue.store([image, *positions, channel], value),
        join=None,
        step_cost=0.5,
    )
    arguments = [packed if index == conv.weight else buffer for index, buffer in enumerate(fused.arguments)]
    packing = Packed((*range(1, rank + 1), rank + 1, 0))
    return Implementation(flat_function(arguments, loops(windows, target)), "depthwise", {conv.weight: packing})
