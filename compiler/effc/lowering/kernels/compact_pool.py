"""Small pools: the maximum or the sum of each window, of the taps that lie inside of the image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from effc.cost.tiles import register_tile
from effc.lowering.kernels.code import floats, load, loop, sequence, store
from effc.lowering.kernels.compact_windows import Result, Sliding, Taps, Window, everywhere, stored_sums, taps
from effc.lowering.kernels.fused import Fused
from effc.lowering.kernels.implementation import Implementation
from effc.lowering.kernels.pool import larger, pooled
from effc.targets import Target

__all__ = ["pool", "sliding_pool"]


def pool(fused: Fused, fixed: Sequence[bool], target: Target) -> Implementation | None:
    """The maximum or the sum of each window (averages divide it behind); None for another function, or not of float32."""
    return everywhere(sliding_pool(fused, fixed))


def sliding_pool(fused: Fused, fixed: Sequence[bool], result: Result | None = None) -> Sliding | None:
    """What `pool` computes at a position; `result` is the statement for (index of an element, its pool), else it is stored."""
    source = pooled(fused)
    if source is None:
        return None
    stored = result or fused.epilogue().store
    batch, *sizes, channels = (int(size) for size in source.shape)
    largest, tile = fused.kind == "max_pool", register_tile(channels, "float32", whole=True)
    window = Window(
        batch=batch,
        sizes=tuple(sizes),
        positions=fused.anchor.extents[1 : 1 + len(sizes)],
        taps=fused.numbers("window"),
        strides=fused.numbers("strides"),
        dilation=fused.numbers("dilation"),
        before=fused.numbers("before"),
    )

    def position(image: Any, at: list[Any], inside: list[Taps]) -> Any:
        def tap(places: list[Any], channel: Any, sums: list[Any]) -> Any:
            statements = []
            for i, one in enumerate(sums):
                value, element = load(one, [0]), fused.value(source, [image, *places, channel + i])
                statements.append(store(one, larger(value, element) if largest else value + element, [0]))
            return sequence(statements)

        def block(number: Any) -> Any:
            return stored_sums(
                number * tile,
                tile,
                tile,
                "float32",
                floats(-math.inf if largest else 0.0),
                lambda sums: taps(inside, lambda found, places: tap(places, number * tile, sums)),
                lambda channel, value: stored([image, *at, channel], value),
            )

        return loop(channels // tile, block, name="block")

    return Sliding(window, position, fused.arguments, {}, "pool")
