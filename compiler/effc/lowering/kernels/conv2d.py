"""Convolutions (one to three spatial axes, grouped or not): output channels fill the vectors, positions of a row share each weight.

The weights are packed first, so that the channels of a vector lie side by side: `[F/l][C][KH][KW][l]`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from effc.lowering.kernels.elementwise import spread
from effc.lowering.kernels.generic import reduce_rows
from effc.lowering.kernels.nest import Nest, inline_producers, nests, parallel_outer, work
from effc.lowering.kernels.tiling import choose, epilogue, lanes_of, tile
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
    """The one convolution of a function: every weight index is a plain variable, the first the output channel, the others all reductions."""
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
    width = shape.lanes
    sch.transform_layout(packed, ("write", 0), lambda f, *rest: (f // width, *rest, f % width))
    store = epilogue(sch, main)
    tile(sch, main, store, lane=1, row=main.kinds.count("S") - 1, shape=shape)
    _pack(sch, packed, width)
    rest(
        sch, target, {main.name, f"{main.name}_init", f"{main.name}_update", str(sch.get(store).name_hint), str(sch.get(packed).name_hint)}
    )
    return True


def rest(sch: Any, target: Target, done: set[str]) -> None:
    """Schedule the other blocks (padding, per-channel terms, what could not be joined) by themselves."""
    for nest in nests(sch):
        if nest.name in done or len(sch.get_loops(nest.handle)) != len(nest.kinds):
            continue
        if nest.spatial:
            spread(sch, nest, target)
        elif "O" not in nest.kinds:
            reduce_rows(sch, nest, target)


def _pack(sch: Any, packed: Any, width: int) -> None:
    nest = next(nest for nest in nests(sch) if nest.name == str(sch.get(packed).name_hint))
    first, *others = sch.get_loops(packed)
    outer, lane = sch.split(first, [None, width])
    sch.reorder(outer, *others, lane)
    parallel_outer(sch, [outer, others[0]], work(nest))
