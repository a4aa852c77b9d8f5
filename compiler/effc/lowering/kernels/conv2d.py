"""Convolutions (one to three spatial axes, grouped or not): output channels fill the vectors, positions of a row share each weight.

The weights are packed first, so that the channels of a vector lie side by side: `[F/l][C][KH][KW][l]`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from effc.lowering.kernels.generic import rest
from effc.lowering.kernels.nest import Nest, inline_producers, nests
from effc.lowering.kernels.tiling import choose, epilogue, lanes_of, pack, tile
from effc.targets import Target

__all__ = ["Convolution", "apply", "find"]


@dataclass(frozen=True)
class Convolution:
    """A block `Y[n, f, ...] += X[n, c, ...] * W[f, c, ...]`; which of its reads are the input and the weight; channels of a group."""

    nest: Nest
    input: int
    weight: int
    channels: int

    @property
    def input_channels(self) -> int:
        return int(self.nest.block.reads[self.input].source.shape[1])

    @property
    def groups(self) -> int:
        return self.input_channels // self.channels

    @property
    def outputs(self) -> int:
        """Output channels of one group."""
        return self.nest.extents[1] // self.groups


def find(sch: Any) -> Convolution | None:
    """The one convolution of a function: its weight is indexed by the output channel, then by the reductions in order."""
    found = [convolution for nest in nests(sch) if (convolution := _convolution(nest)) is not None]
    return found[0] if len(found) == 1 else None


def _convolution(nest: Nest) -> Convolution | None:
    axes = nest.kinds.count("S") - 2
    if axes < 1 or nest.kinds != "S" * (axes + 2) + "R" * (axes + 1) or len(nest.block.reads) != 2 or 0 in nest.extents:
        return None
    variables = nest.variables
    wanted = [variables[1], *variables[axes + 2 :]]
    for index, region in enumerate(nest.block.reads):
        places = [place.min for place in region.region]
        if len(places) == len(wanted) and all(place.same_as(variable) for place, variable in zip(places, wanted, strict=True)):
            source = nest.block.reads[1 - index].source
            channels = nest.extents[axes + 2]
            if len(source.shape) != axes + 2 or int(source.shape[1]) % channels:
                return None
            return Convolution(nest, 1 - index, index, channels)
    return None


def apply(sch: Any, target: Target) -> bool:
    """Schedule a function with one convolution whose groups have enough output channels for vectors."""
    if find(sch) is None:
        return False
    inline_producers(sch)
    convolution = find(sch)
    if convolution is None:
        return False
    main = convolution.nest
    lanes = lanes_of(target, str(main.block.writes[0].source.dtype))
    shape = choose(convolution.outputs, main.extents[main.kinds.count("S") - 1], lanes, target.registers)
    if shape is None or convolution.outputs % shape.lanes:
        return False
    packed = sch.cache_read(main.handle, convolution.weight, "global")
    pack(sch, packed, axis=0, width=shape.lanes)
    tile(sch, main, epilogue(sch, main), lane=1, row=main.kinds.count("S") - 1, shape=shape)
    rest(sch, target)
    return True
