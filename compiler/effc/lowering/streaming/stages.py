"""Which calls of a dense draft can run over lists of positions, and what they read where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from effc.lowering.kernels.conv import read
from effc.lowering.kernels.fused import Fused, blocks_of
from effc.lowering.kernels.implementation import Implementation
from effc.lowering.kernels.inlining import NotInlinableError, rebuilt
from effc.lowering.kernels.listed_pool import read_pool
from effc.lowering.kernels.listed_results import Results
from effc.lowering.kernels.moved import Moved
from effc.lowering.kernels.pixel_list import Listed, Reach
from effc.lowering.streaming.families import list_kernels
from effc.targets import Target

__all__ = ["Pair", "Sources", "Stage", "is_movement", "is_transposition", "listed_stage", "pixel_steps"]

Pair = tuple[int, int]
Sources = Sequence[tuple[str, Moved, Pair]]  # states, their moved pixels, and the step at which these are read


@dataclass(frozen=True)
class Stage:
    """A kernel over a list, and the states whose masks it reads, in the order of its arguments.

    `whole`: the kernel `(operands, state)` of a whole frame whose results have the same bits; None where the dense one's have.
    """

    implementation: Implementation
    states: tuple[str, ...]
    whole: Implementation | None = None


def listed_stage(
    function: Any,
    shapes: Sequence[tuple[int, ...]],
    stored: Sequence[bool],
    moved: Sequence[Sources],
    results: Results,
    active: Any,
    target: Target,
) -> Stage | None:
    """The kernel of a function at the positions that may have moved; None where there is none of that kind.

    Args:
        function: a fused TIR function with one result.
        shapes, stored, moved: of each operand: its shape, whether it is a stored tensor, and the states whose moved pixels are its own
            (empty where that is not known).
        results: what it keeps.
        active: counters of the positions that were computed.
        target: the processor.
    """
    try:
        return _windowed(function, shapes, stored, moved, results, active, target)
    except NotInlinableError:
        pass
    try:
        return _mapped(function, stored, moved, results, active, target)
    except NotInlinableError:
        return None


def _windowed(
    function: Any,
    shapes: Sequence[tuple[int, ...]],
    stored: Sequence[bool],
    moved: Sequence[Sources],
    results: Results,
    active: Any,
    target: Target,
) -> Stage | None:
    """Convolutions and pools. Raises NotInlinableError for a function without an anchor."""
    fused = Fused(function)
    size = (results.moved.height, results.moved.width)
    window = _window(fused)
    if window is None:
        return None
    at, macs, shape = window
    groups: dict[str, list[Reach]] = {}
    for index, sources in enumerate(moved):
        if stored[index]:
            continue
        if not sources or (index != at and shapes[index][1:3] != size):
            return None
        for state, own, strides in sources:
            if index == at and strides != (1, 1):
                return None
            reach = Reach(own, *shape) if index == at else Reach(own, strides=strides)
            groups.setdefault(state, []).append(reach)
    reaches = [reach for group in groups.values() for reach in group]
    kernels = list_kernels(target)
    if not reaches or not kernels.fits(*size, reaches):
        return None
    what = Listed(*size, reaches, results.moved, active, macs)
    for rule in kernels.rules:
        implementation = rule(fused, stored, what, results, target)
        if implementation is not None:
            return Stage(implementation, tuple(groups), rule(fused, stored, None, results, target) if kernels.whole else None)
    return None


def _window(fused: Fused) -> tuple[int, int, tuple[Pair, Pair, Pair, Pair]] | None:
    """(the operand that windows slide over, multiply-accumulates of a position, (window, strides, dilation, before)) of an anchor."""
    if fused.kind == "convolution" and str(fused.anchor.buffer.dtype) == "float32":
        conv = read(fused)
        at = fused.argument(conv.input)
        if at is None or len(conv.sizes) != 2 or conv.batch != 1:
            return None
        macs = conv.channels * conv.features * conv.window[0] * conv.window[1]
        return at, macs, (conv.window, conv.strides, conv.dilation, conv.before)  # type: ignore[return-value]
    pool = read_pool(fused)
    if pool is None:
        return None
    macs = pool.channels * pool.window[0] * pool.window[1]
    return pool.source, macs, (pool.window, pool.strides, pool.dilation, pool.before)  # type: ignore[return-value]


def _mapped(function: Any, stored: Sequence[bool], moved: Sequence[Sources], results: Results, active: Any, target: Target) -> Stage | None:
    """Functions of single pixels. Not those of one channel that write it as (1, 1, H, W): their axes are not those of the positions."""
    size = (results.moved.height, results.moved.width)
    steps = pixel_steps(function)
    if steps is None or [int(length) for length in function.params[-1].shape] != [1, *size, results.channels]:
        return None
    groups: dict[str, list[Reach]] = {}
    for index, sources in enumerate(moved):
        if stored[index]:
            continue
        step = steps.get(index)
        if not sources or step is None:
            return None
        for state, own, strides in sources:
            groups.setdefault(state, []).append(Reach(own, strides=(step[0] * strides[0], step[1] * strides[1])))
    reaches = [reach for group in groups.values() for reach in group]
    kernels = list_kernels(target)
    if not reaches or not kernels.fits(*size, reaches):
        return None
    what, given = Listed(*size, reaches, results.moved, active, results.channels), (list(function.params), blocks_of(function))
    whole = kernels.mapped(*given, None, results, target) if kernels.whole else None
    return Stage(kernels.mapped(*given, what, results, target), tuple(groups), whole)


def is_transposition(function: Any) -> bool:
    """Whether a function writes (1, C, H, W) as (1, H, W, C), and nothing else."""
    try:
        blocks = blocks_of(function)
    except NotInlinableError:
        return False
    if len(blocks) != 1 or not blocks[0].spatial:
        return False
    block, places = blocks[0], _loads(blocks[0].value)
    if len(places) != 1 or len(block.variables) != 4 or not hasattr(block.value, "indices"):
        return False
    (image, y, x, channel), found = block.variables, places[0][1]
    return all(one.same_as(other) for one, other in zip(found, (image, channel, y, x), strict=True))


def is_movement(function: Any) -> bool:
    """Whether a function computes nothing: its elements are those of its operand, at other places."""
    try:
        blocks = blocks_of(function)
    except NotInlinableError:
        return False
    return all(hasattr(block.value, "source") and hasattr(block.value, "indices") for block in blocks)


def pixel_steps(function: Any) -> dict[int, Pair] | None:
    """Of a function whose every result depends on one pixel of each operand: that pixel, by operand.

    The result is (1, H, W, C); an operand may be one that is transposed to that. A step of (2, 2) says that position (y, x) reads the
    pixel (2 y, 2 x). None for another function; operands that are the same for all pixels are left out.
    """
    try:
        blocks = blocks_of(function)
    except NotInlinableError:
        return None
    arguments = list(function.params)
    steps: dict[Any, Pair] = {arguments[-1]: (1, 1)}
    for block in reversed(blocks):  # from the result back to what it reads
        if (
            not block.spatial
            or len(block.variables) != 4
            or not all(a.same_as(b) for a, b in zip(block.indices, block.variables, strict=True))
        ):
            return None
        own = steps.get(block.buffer)
        if own is None:
            return None
        for buffer, indices in _loads(block.value):
            if len(indices) != 4:
                return None
            if int(buffer.shape[1]) == 1 and int(buffer.shape[2]) == 1:
                continue
            planes = indices[1].same_as(block.variables[3]) and buffer in arguments  # (1, C, H, W)
            factors = [_factor(indices[axis + planes], block.variables[axis]) for axis in (1, 2)]
            if factors[0] is None or factors[1] is None:
                return None
            step = (own[0] * factors[0], own[1] * factors[1])
            if steps.setdefault(buffer, step) != step:
                return None
    return {index: steps[argument] for index, argument in enumerate(arguments[:-1]) if argument in steps}


def _factor(index: Any, variable: Any) -> int | None:
    """k of an index `k * variable`; None for another."""
    from tvm import tirx

    if index.same_as(variable):
        return 1
    if isinstance(index, tirx.Mul):
        for one, other in ((index.a, index.b), (index.b, index.a)):
            if one.same_as(variable) and isinstance(other, tirx.IntImm) and int(other) > 0:
                return int(other)
    return None


def _loads(value: Any) -> list[tuple[Any, Sequence[Any]]]:
    """Every element that an expression reads."""
    from tvm import tirx

    found: list[tuple[Any, Sequence[Any]]] = []

    def note(buffer: Any, indices: Sequence[Any]) -> Any:
        found.append((buffer, list(indices)))
        return tirx.BufferLoad(buffer, list(indices))

    rebuilt(value, {}, note)
    return found
