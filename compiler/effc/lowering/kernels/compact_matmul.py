"""Small matrix products, batched or not: of float32, and of bytes with int32 sums.

A stored right operand lies in blocks of a few columns, in the order in which the loop over the depth reads it. One that is computed is read
where it lies. Where a pass makes most of the inputs zero, each is tested before its weights are read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from effc.cost.skipping import counted
from effc.cost.tiles import register_tile
from effc.lowering.kernels.code import allocated, choose, floats, integer, load, local, loop, sequence, single, store
from effc.lowering.kernels.compact_function import compact_function
from effc.lowering.kernels.compact_windows import number, steps, stored_sums
from effc.lowering.kernels.fused import Fused
from effc.lowering.kernels.implementation import Implementation
from effc.lowering.kernels.integer_vectors import centred_bytes, only
from effc.lowering.kernels.packing import Packed
from effc.targets import Target

__all__ = ["product"]

Element = Callable[[Sequence[Any]], Any]


@dataclass(frozen=True)
class _Operands:
    """How the elements of both are read, by their index, as numbers of the sums' type; buffers and statements that must run first."""

    dtype: str
    left: Element
    right: Element | None  # None: it is a stored matrix
    buffers: list[Any]
    setup: list[Any]


def product(fused: Fused, fixed: Sequence[bool], target: Target) -> Implementation | None:
    """The matrix product of a function; None where it is none."""
    operands = _operands(fused, fixed)
    if operands is None:
        return None
    return _implementation(fused, operands, _skipped(fused, operands))


def _skipped(fused: Fused, operands: _Operands) -> str:
    """Why inputs that are zero are passed over, with the numbers; empty where they are not."""
    known = fused.known
    if known is None or known.density is None or operands.right is not None or operands.dtype != "float32":
        return ""
    *batch, rows, columns, depth = fused.anchor.extents
    decision = counted(math.prod(batch) * rows, depth, columns, known.density)
    if not decision.pays:
        fused.reasons.append(decision.why)
    return decision.why if decision.pays else ""


def _operands(fused: Fused, fixed: Sequence[bool]) -> _Operands | None:
    from tvm import tirx

    if fused.kind not in ("matmul", "integer_matmul") or len(fused.reads()) != 2:
        return None
    left, right = fused.reads()
    argument = fused.argument(right)
    stored = argument is not None and fixed[argument] and len(right.shape) == 2
    if fused.kind == "matmul":
        if str(fused.anchor.buffer.dtype) != "float32":
            return None
        return _Operands("float32", lambda at: fused.value(left, at), None if stored else lambda at: single(fused.value(right, at)), [], [])
    if argument is not None and not stored:
        return None

    def centred(operand: Any, name: str) -> tuple[Element, Any, Any]:
        x, point = centred_bytes(fused, operand)
        zero = local(1, name, "int32")
        setting = store(zero, tirx.Cast("int32", only(point)), [0])
        return lambda at: tirx.Cast("int32", load(x, at)) - load(zero, [0]), zero, setting

    a, zero, setting = centred(left, "zero")
    if stored:
        return _Operands("int32", a, None, [zero], [setting])
    b, other, also = centred(right, "other_zero")
    return _Operands("int32", a, b, [zero, other], [setting, also])


def _implementation(fused: Fused, operands: _Operands, skipped: str) -> Implementation:
    from tvm import tirx

    *batch, rows, columns, depth = fused.anchor.extents
    left, right = fused.reads()
    epilogue, dtype = fused.epilogue(), operands.dtype
    tile = register_tile(columns, dtype, whole=operands.right is not None)
    blocks = -(-columns // tile)
    argument = fused.argument(right) if operands.right is None else None
    packed = tirx.decl_buffer((blocks, depth, tile), str(right.dtype), name="packed")
    rest = columns % tile

    def weight(value: Any) -> Any:
        return value if str(value.ty.dtype) == dtype else tirx.Cast(dtype, value)

    def block_of(at: list[Any], row: Any, block: Any) -> Any:
        def accumulate(sums: list[Any]) -> Any:
            start, held, setting = number(block * (depth * tile), "at") if operands.right is None else (0, [], [])

            def step(k: Any) -> Any:
                value, statements = local(1, "value", dtype), []
                first = store(value, operands.left([*_own(at, left), row, k]), [0])
                for i, one in enumerate(sums):
                    if operands.right is None:
                        other = weight(load(packed, [0, 0, start + k * tile + i]))
                    else:
                        other = operands.right([*_own(at, right), k, block * tile + i])
                    statements.append(store(one, load(one, [0]) + load(value, [0]) * other, [0]))
                if skipped:
                    statements = [choose(_not_zero(load(value, [0])), sequence(statements), tirx.Evaluate(integer(0)))]
                return allocated([value], [first, *statements])

            return allocated(held, [*setting, steps(depth, dtype, 1, step, "k")])

        return stored_sums(
            block * tile,
            tile,
            tirx.min(tile, columns - block * tile) if rest and blocks > 1 else rest or tile,
            dtype,
            floats(0.0) if dtype == "float32" else integer(0),
            accumulate,
            lambda column, value: epilogue.store([*at, row, column], value),
        )

    def axes(at: list[Any]) -> Any:
        if len(at) < len(batch):
            return loop(batch[len(at)], lambda one: axes([*at, one]), name="batch")
        return loop(rows, lambda row: loop(blocks, lambda block: block_of(at, row, block), name="block"), name="row")

    arguments = [packed if index == argument else buffer for index, buffer in enumerate(fused.arguments)]
    function = compact_function(arguments, allocated(operands.buffers, [*operands.setup, axes([])]))
    packings = {} if argument is None else {argument: Packed((1, 0), ((1, tile),))}
    family = "skipping" if skipped else "matmul" if dtype == "float32" else "integer_matmul"
    return Implementation(function, family, packings, skipped)


def _not_zero(value: Any) -> Any:
    """By its bits: NaN is not zero, and no core without a floating-point unit compares in software."""
    from tvm import tirx

    return tirx.bitwise_and(tirx.reinterpret("int32", value), integer(0x7FFFFFFF)) != 0


def _own(at: Sequence[Any], operand: Any) -> list[Any]:
    """The place of a matrix of the result in the batch axes of an operand, which may have fewer, or broadcast some."""
    sizes = [int(size) for size in operand.shape[:-2]]
    return [integer(0) if size == 1 else place for size, place in zip(sizes, at[len(at) - len(sizes) :], strict=True)]
