"""Quantised matrix products, batched or not, in tiles of integer sums (see `integer`).

A stored right operand is laid out at compile time. One that is computed has a zero point that is known at run time only: it is centred and
laid out first, two rows interleaved where the processor multiplies pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from effc.lowering.kernels.code import flat_function, integer, loop, parallel, sequence
from effc.lowering.kernels.fused import Fused
from effc.lowering.kernels.implementation import Implementation
from effc.lowering.kernels.integer import Layout, Sums, kernel, layout, packing
from effc.lowering.kernels.integer_dots import bytes_dot, signed_dot
from effc.lowering.kernels.integer_left import left_operand
from effc.lowering.kernels.integer_vectors import cast, centred_bytes, only, places, spread, vector_load, vector_store
from effc.lowering.kernels.packing import Computed
from effc.lowering.kernels.products import pieces
from effc.targets import Target

__all__ = ["product"]

_PARALLEL_ELEMENTS = 1 << 17  # below it, starting threads costs more than it saves


def product(fused: Fused, fixed: Sequence[bool], target: Target) -> Implementation | None:
    """The product of centred bytes with stored integers or other centred bytes; None where the function holds none."""
    if fused.kind != "integer_matmul":
        return None
    left, right = fused.reads()
    a, a_zero = centred_bytes(fused, left)
    argument = fused.argument(right)
    if argument is None:
        return _of_two(fused, a, a_zero, *centred_bytes(fused, right), target)
    if not fixed[argument] or len(right.shape) != 2:
        return None
    sizes = [int(size) for size in a.shape]
    kind, depth, epilogue = str(right.dtype), sizes[-1], fused.epilogue()
    dot = (bytes_dot(target) if kind == "int8" else None) or signed_dot(target, kind)
    sums = Sums(
        lines=1,
        width=math.prod(sizes[:-1]),
        groups=1,
        outputs=int(right.shape[1]),
        taps=(),
        run=depth,
        place=lambda line, position, taps, group: position * depth,
        result=lambda line, position, group, channel, value: epilogue.store([*places(position, sizes[:-1]), channel], value),
    )
    plan = layout(sums, dot, target)
    rows = packing(sums, plan)
    arguments = [plan.packed if index == argument else buffer for index, buffer in enumerate(fused.arguments)]
    return Implementation(
        flat_function(arguments, kernel(sums, left_operand(a, a_zero, dot, depth), plan)),
        "integer_matmul",
        {argument: Computed(f"transposed, {rows.name}", lambda array: rows.compute(array.T))},
    )


def _of_two(fused: Fused, a: Any, a_zero: Any, b: Any, b_zero: Any, target: Target) -> Implementation:
    """Both operands are computed: every matrix of the batch is a group of channels of its own."""
    *batch, rows, columns, depth = fused.anchor.extents
    dot, epilogue = signed_dot(target, "int16"), fused.epilogue()
    sizes = [int(size) for size in a.shape]

    def place(line: Any, position: Any, taps: Sequence[Any], group: Any) -> Any:
        return (_matrix(group, batch, sizes[:-2]) * rows + position) * depth

    sums = Sums(
        lines=1,
        width=rows,
        groups=math.prod(batch),
        outputs=columns,
        taps=(),
        run=depth,
        place=place,
        result=lambda line, position, group, channel, value: epilogue.store([*places(group, batch), position, channel], value),
    )
    plan = layout(sums, dot, target)
    left = left_operand(a, a_zero, dot, depth)
    body = kernel(sums, left, plan, [(plan.packed, _laid_out(b, b_zero, batch, plan, columns, depth))])
    return Implementation(flat_function(fused.arguments, body), "integer_matmul")


def _laid_out(b: Any, zero: Any, batch: Sequence[int], plan: Layout, columns: int, depth: int) -> Any:
    """The statement that centres a right operand and lays it out."""
    from tvm import tirx

    dot, sizes = plan.dot, [int(size) for size in b.shape]
    front = [integer(0)] * (len(sizes) - 1)
    point = tirx.Cast("int16", only(zero))

    def row(matrix: Any, depth_at: Any, column: Any, width: int) -> Any:
        values = vector_load(b, [*front, (matrix * depth + depth_at) * columns + column], width)
        return cast(values, "int16", width) - spread(point, width)

    def group_block(number: Any) -> Any:
        group, block = number // plan.blocks, number % plan.blocks
        matrix = _matrix(group, batch, sizes[:-2])

        def stored(step: Any, at: int, width: int, both: bool) -> Any:
            column = block * plan.block + at
            value = row(matrix, step * dot.size, column, width)
            if dot.size == 2:
                other = row(matrix, step * 2 + 1, column, width) if both else spread(tirx.const(0, "int16"), width)
                order = [integer(half * width + lane) for lane in range(width) for half in range(2)]
                value = tirx.Shuffle([value, other], order)
            return vector_store(plan.packed, value, [number, step, at * dot.size], width * dot.size)

        def steps(width: int) -> Any:
            """All rows of the first columns of a block."""
            parts = [(at + first, size) for at in range(0, width, dot.lanes) for first, size in pieces(min(dot.lanes, width - at))]
            whole = depth // dot.size
            statements = [loop(whole, lambda step: sequence([stored(step, at, size, True) for at, size in parts]), name="step")]
            if depth % dot.size:
                statements += [stored(integer(whole), at, size, False) for at, size in parts]
            return sequence(statements if whole else statements[1:])

        rest = columns % plan.block
        if not rest or plan.blocks == 1:
            return steps(rest or plan.block)
        return tirx.IfThenElse(block == plan.blocks - 1, steps(rest), steps(plan.block))

    total = math.prod(batch) * plan.blocks
    share = parallel if total > 1 and math.prod(batch) * columns * depth >= _PARALLEL_ELEMENTS else loop
    return share(total, group_block)


def _matrix(number: Any, batch: Sequence[int], own: Sequence[int]) -> Any:
    """Which matrix of an operand belongs to a matrix of the result; the operand may have fewer axes of the batch, or broadcast some."""
    index = places(number, batch)
    found: Any = integer(0)
    for size, place in zip(own, index[len(index) - len(own) :], strict=True):
        found = found * size + (0 if size == 1 else place)
    return found
