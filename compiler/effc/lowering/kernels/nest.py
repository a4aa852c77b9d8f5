"""What the rules share: blocks of a schedule, their loops and work, inlining, and when threads pay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from effc.lowering.expansion import in_vectors

__all__ = ["Nest", "calls", "inline_producers", "is_constant", "named", "nests", "parallel_outer", "plain", "split_lanes", "work"]

# Below this many scalar operations a parallel loop costs more than it saves (a launch takes a few microseconds).
PARALLEL_WORK = 1 << 16
# Scalar operations that one call of a function costs, roughly.
CALL_COST = 12


@dataclass(frozen=True)
class Nest:
    """One leaf block: its handle, its iteration kinds ('S' spatial, 'R' reduction, 'O' other) and extents, one loop each."""

    handle: Any
    block: Any
    name: str
    kinds: str
    extents: tuple[int, ...]

    @property
    def iterations(self) -> int:
        result = 1
        for extent in self.extents:
            result *= extent
        return result

    @property
    def spatial(self) -> bool:
        return set(self.kinds) <= {"S"}

    @property
    def variables(self) -> list[Any]:
        return [axis.var for axis in self.block.iter_vars]


def nests(sch: Any) -> list[Nest]:
    """The leaf blocks under the root, in order. Extents are 0 where they are not constant."""
    from tvm import tirx

    letters = {tirx.IterVar.DataPar: "S", tirx.IterVar.CommReduce: "R"}
    found = []
    for handle in sch.get_child_blocks(sch.get_sblock("root")):
        block = sch.get(handle)
        kinds = "".join(letters.get(axis.iter_type, "O") for axis in block.iter_vars)
        extents = tuple(int(axis.dom.extent) if isinstance(axis.dom.extent, tirx.IntImm) else 0 for axis in block.iter_vars)
        found.append(Nest(handle, block, str(block.name_hint), kinds, extents))
    return found


def is_constant(expression: Any, value: int) -> bool:
    from tvm import tirx

    return isinstance(expression, tirx.IntImm) and int(expression) == value


def named(sch: Any, handle: Any) -> Nest:
    """The nest of a block handle."""
    name = str(sch.get(handle).name_hint)
    return next(nest for nest in nests(sch) if nest.name == name)


def plain(sch: Any, nest: Nest) -> bool:
    """Whether a block still has one serial loop for each of its axes, shared with no other block."""
    from tvm import tirx

    loops = [sch.get(loop) for loop in sch.get_loops(nest.handle)]
    if len(loops) != len(nest.kinds) or any(loop.kind != tirx.ForKind.SERIAL for loop in loops):
        return False
    if any(int(loop.extent) != extent for loop, extent in zip(loops, nest.extents, strict=True)):
        return False
    return len(sch.get_child_blocks(sch.get_loops(nest.handle)[0])) == 1


def work(nest: Nest) -> int:
    """Scalar operations of a block, roughly: what decides whether threads pay."""
    return nest.iterations * _cost(getattr(nest.block.body, "value", None))


def calls(nest: Nest) -> bool:
    """Whether computing an element takes a branch, or calls a function that has no form in vectors."""
    from tvm.ir import Call

    return any(isinstance(node, Call) and not in_vectors(node) for node in _nodes(getattr(nest.block.body, "value", None)))


def _cost(expression: Any) -> int:
    from tvm.ir import Call

    branches = ("prim.if_then_else", "prim.likely")
    return sum(
        CALL_COST if isinstance(node, Call) and str(getattr(node.op, "name", "")) not in branches else 1 for node in _nodes(expression)
    )


def _nodes(expression: Any) -> Iterator[Any]:
    """An expression and what it is made of, except for the indices of what it loads."""
    if expression is None or isinstance(expression, (int, float, bool, str)):
        return
    yield expression
    for name in ("a", "b", "value", "condition", "true_value", "false_value"):
        yield from _nodes(getattr(expression, name, None))
    for argument in getattr(expression, "args", ()):
        yield from _nodes(argument)


def inline_producers(sch: Any) -> None:
    """Inline spatial blocks into what reads them, where nothing is computed more often than before.

    A block that is smaller than its reader (a per-channel square root) stays: it is computed once. One that only moves data is always
    inlined, unless it pads for a reader that uses elements more than once: padding would then be decided in the innermost loop.
    """
    from tvm.s_tir import ScheduleError

    for nest in nests(sch):
        consumers = sch.get_consumers(nest.handle)
        if not nest.spatial or not consumers:
            continue
        readers = [_iterations(sch, consumer) for consumer in consumers]
        if sum(readers) > nest.iterations and not _moves_only(nest.block):
            continue
        try:
            sch.compute_inline(nest.handle)
        except ScheduleError:  # written in a form that cannot be inlined, or an output of the function: it stays a block of its own
            continue


def _iterations(sch: Any, handle: Any) -> int:
    result = 1
    for axis in sch.get(handle).iter_vars:
        result *= int(axis.dom.extent)
    return result


def _moves_only(block: Any) -> bool:
    """Whether the block copies, broadcasts or fills without computing or deciding anything."""
    from tvm import tirx
    from tvm.ir import TensorLoad

    if not isinstance(block.body, tirx.BufferStore):
        return False
    return isinstance(block.body.value, (TensorLoad, tirx.IntImm, tirx.FloatImm))


def parallel_outer(sch: Any, loops: list[Any], amount: int) -> Any:
    """Fuse loops that can run in any order and spread them over threads when the work pays; returns the fused loop."""
    fused = sch.fuse(*loops) if len(loops) > 1 else loops[0]
    if amount >= PARALLEL_WORK and int(sch.get(fused).extent) > 1:
        sch.parallel(fused)
    return fused


def split_lanes(sch: Any, loop: Any, lanes: int) -> None:
    """Vectorise a loop whose extent the vector divides; others are left to LLVM, which handles the rest of a row."""
    extent = int(sch.get(loop).extent)
    if lanes < 2:
        return
    if extent == lanes:
        sch.vectorize(loop)
    elif extent > lanes and extent % lanes == 0:
        sch.vectorize(sch.split(loop, [None, lanes])[1])
