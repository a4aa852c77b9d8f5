"""How a stored operand is laid out for a kernel, applied once at compile time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from effc.lowering.parameters import ParameterSource

__all__ = ["Computed", "Packed", "Packing"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Packed:
    """Axes in another order, some of them cut into blocks whose elements lie side by side at the end.

    An axis of size s that is cut into blocks of b becomes ceil(s / b) blocks in its place, and b elements at the end; the last block is
    filled up with zeros. `Packed((0, 1, 2, 3), ((0, 32),))` lays weights OHWI out as `[O/32][H][W][I][32]`.

    Attributes:
        order: which source axis comes where.
        blocks: (source axis, size of a block), in the order in which they stand at the end.
    """

    order: tuple[int, ...]
    blocks: tuple[tuple[int, int], ...] = ()

    def __call__(self, array: Array) -> Array:
        whole = {axis: math.prod(size for one, size in self.blocks if one == axis) for axis, _ in self.blocks}
        filled = np.pad(array, [(0, -array.shape[axis] % whole.get(axis, 1)) for axis in range(array.ndim)])
        shape: list[int] = []
        outer: dict[int, int] = {}
        inner: dict[int, list[int]] = {}
        for axis, size in enumerate(filled.shape):
            outer[axis] = len(shape)
            shape.append(size // whole.get(axis, 1))
            for one, block in self.blocks:
                if one == axis:
                    inner.setdefault(axis, []).append(len(shape))
                    shape.append(block)
        ends = [inner[axis].pop(0) for axis, _ in self.blocks]
        return np.ascontiguousarray(filled.reshape(shape).transpose([*(outer[axis] for axis in self.order), *ends]))

    def source(self, before: ParameterSource) -> ParameterSource:
        """Where the stored elements come from, given the source of the operand."""
        if before.kind not in ("same", "permutation"):
            return ParameterSource(before.name, "transformed")
        axes = before.permutation or tuple(range(len(self.order)))
        order = tuple(axes[axis] for axis in self.order)
        if not self.blocks:
            return ParameterSource(before.name, "permutation", order)
        return ParameterSource(before.name, "packed", order, tuple((axes[axis], size) for axis, size in self.blocks))


@dataclass(frozen=True)
class Computed:
    """An operand from which something else is computed: `compute` is a function of the array alone, `name` tells it from others."""

    name: str
    compute: Callable[[Array], Array]

    def __call__(self, array: Array) -> Array:
        return np.ascontiguousarray(self.compute(array))

    def source(self, before: ParameterSource) -> ParameterSource:
        return ParameterSource(before.name, "transformed")


Packing = Packed | Computed
