"""Operators that move no element: one form for all of them, and out of the way of what fuses.

An exported transformer reshapes around every matrix product. In memory nothing happens, but relax fuses no elementwise operator into a
product that stands behind a reshape. So views move behind elementwise operators, until they meet each other and vanish:

    before: gelu(add(reshape(matmul(reshape(x), w)), bias))
    after:  reshape(gelu(add(matmul(reshape(x), w), bias)))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from effc.lowering.elementwise_operators import SEVERAL, UNARY
from effc.lowering.moves import groups, sources
from effc.lowering.relax_edit import Main, known_sizes, operator_name, rewritten, rewritten_with_builder
from effc.lowering.slices import in_front

__all__ = ["fused_views", "positive_axes"]

Emit = Callable[[Any], Any]
_VIEWS = ("relax.expand_dims", "relax.squeeze", "relax.flatten", "relax.reshape")
_MOST_ROUNDS = 64


def positive_axes(module: Any) -> Any:
    """The module with axes counted from the front where relax's change of layouts misreads others."""
    from tvm import relax

    def rewrite(call: Any, main: Main) -> Any:
        name = operator_name(call)
        if name == "relax.squeeze" and call.attrs.axis is not None and any(int(axis) < 0 for axis in call.attrs.axis):
            return relax.op.squeeze(call.args[0], [int(axis) % call.args[0].ty.ndim for axis in call.attrs.axis])
        if name == "relax.permute_dims" and call.attrs.axes is not None and any(int(axis) < 0 for axis in call.attrs.axes):
            return relax.op.permute_dims(call.args[0], [int(axis) % call.args[0].ty.ndim for axis in call.attrs.axes])
        if name == "relax.stack" and int(call.attrs.axis) < 0:
            return relax.op.stack(call.args[0], int(call.attrs.axis) + call.ty.ndim)
        return None

    return rewritten(module, rewrite)


def fused_views(module: Any) -> Any:
    """The module with reshapes as the only views, none in front of an elementwise operator or a product that could do without."""
    from tvm import relax

    for _ in range(_MOST_ROUNDS):
        changes = 0

        def make(builder: Any) -> Callable[[Any, Main], Any]:
            def rewrite(call: Any, main: Main) -> Any:
                nonlocal changes
                for rule in (_view, _product, _behind, in_front):
                    changed = rule(builder.emit, call, main)
                    if changed is not None:
                        changes += 1
                        return changed
                return None

            return rewrite

        module = rewritten_with_builder(module, make)
        module = relax.transform.DeadCodeElimination()(relax.transform.EliminateCommonSubexpr()(module))
        if not changes:
            break
    return module


def _reshape(x: Any, shape: Sequence[int]) -> Any:
    from tvm import relax

    return x if known_sizes(x) == list(shape) else relax.op.reshape(x, list(shape))


def _view(emit: Emit, call: Any, main: Main) -> Any:
    """A view of a view is one; one that changes no shape is nothing; a transposition that moves no element is a view."""
    name, after = operator_name(call), known_sizes(call)
    before = known_sizes(call.args[0]) if call.args else None
    if before is None or after is None:
        return None
    source = call.args[0]
    if name == "relax.permute_dims":
        axes = _axes(call)
        inner = main.bound.get(source)
        if inner is not None and operator_name(inner) == "relax.permute_dims":
            from tvm import relax

            return relax.op.permute_dims(inner.args[0], [_axes(inner)[axis] for axis in axes])
        moving = [axis for axis in axes if before[axis] != 1]
        return _reshape(source, after) if moving == sorted(moving) else None
    if (name == "relax.broadcast_to" and math.prod(before) == math.prod(after)) or name in _VIEWS[:-1]:
        return _reshape(source, after)
    if name != "relax.reshape":
        return None
    inner = main.bound.get(source)
    if inner is not None and operator_name(inner) == "relax.reshape":
        return _reshape(inner.args[0], after)
    if inner is not None and operator_name(inner) == "relax.permute_dims" and before != after:
        return _permuted_view(emit, inner, before, after)
    return source if before == after else None


def _permuted_view(emit: Emit, permute: Any, before: list[int], after: list[int]) -> Any:
    """A view of a transposition as the transposition of a view; None where the view mixes axes that were not neighbours."""
    from tvm import relax

    axes, source = _axes(permute), permute.args[0]
    place = {axis: number for number, axis in enumerate(one for one in range(len(axes)) if before[axes.index(one)] != 1)}
    matching = []
    for mixed, result in groups(before, after):
        first, *others = (place[axes[axis]] for axis in mixed)
        if others != list(range(first + 1, first + 1 + len(others))):
            return None
        matching.append((first, result))
    order = [axis for axis, size in enumerate(after) if size == 1] + [axis for _, result in sorted(matching) for axis in result]
    view = emit(relax.op.reshape(source, [after[axis] for axis in order]))
    return relax.op.permute_dims(view, [order.index(axis) for axis in range(len(after))])


def _axes(call: Any) -> list[int]:
    rank = call.args[0].ty.ndim
    return list(reversed(range(rank))) if call.attrs.axes is None else [int(axis) % rank for axis in call.attrs.axes]


def _product(emit: Emit, call: Any, main: Main) -> Any:
    """A product with one matrix for all of a batch is a product of all rows with it."""
    from tvm import relax

    if operator_name(call) != "relax.matmul":
        return None
    left, right = known_sizes(call.args[0]), known_sizes(call.args[1])
    if left is None or right is None or len(left) < 2 or len(right) < 2 or 0 in (*left, *right):
        return None
    matrix = call.args[1] if len(right) == 2 else _one_matrix(call.args[1], right, main)
    if matrix is None or len(left) == 2:
        return None
    after = known_sizes(call)
    if after is None or after[:-1] != left[:-1]:  # the batch of the left operand is broadcast, too
        return None
    rows = emit(relax.op.reshape(call.args[0], [math.prod(left[:-1]), left[-1]]))
    return relax.op.reshape(emit(relax.op.matmul(rows, matrix, out_dtype=str(call.ty.dtype))), after)


def _one_matrix(variable: Any, sizes: list[int], main: Main) -> Any:
    """The matrix that a batch consists of copies of."""
    from tvm import tirx

    index = [tirx.Var(f"i{axis}", "int32") for axis in range(len(sizes))]
    for source in sources(variable, main):
        if known_sizes(source.variable) == sizes[-2:]:
            places = source.place(index, sizes)
            if all(getattr(place, "same_as", lambda _: False)(one) for place, one in zip(places, index[-2:], strict=True)):
                return source.variable
    return None


def _behind(emit: Emit, call: Any, main: Main) -> Any:
    """An elementwise operator of a view is the view of the operator; its other operands get the shape in front of the view."""
    from tvm import relax

    after = known_sizes(call)
    if after is None or 0 in after or operator_name(call) not in UNARY | SEVERAL:
        return None
    several = operator_name(call) in SEVERAL
    if several and any(_only_read_here(operand, main) and known_sizes(operand) == after for operand in call.args):
        return None  # fuses where it is
    for operand in call.args if several else call.args[:1]:
        inner = _viewed(operand, main)
        before = None if inner is None else known_sizes(inner)
        if before is None or known_sizes(operand) != after or (several and not _only_read_here(inner, main)):
            continue
        operands = [inner, *call.args[1:]]
        if several:
            shapes = [shape for other in call.args if (shape := _before(other, before, after)) is not None]
            if len(shapes) != len(call.args):
                continue
            operands = [_emitted(emit, other, shape) for other, shape in zip(call.args, shapes, strict=True)]
        return relax.op.reshape(emit(relax.Call(call.op, operands, call.attrs, call.ty_args)), after)
    return None


def _viewed(operand: Any, main: Main) -> Any:
    """What an operand is a reshape of; None where it is none."""
    from tvm import relax

    inner = main.bound.get(operand) if isinstance(operand, relax.Var) else None
    return inner.args[0] if inner is not None and operator_name(inner) == "relax.reshape" else None


def _only_read_here(operand: Any, main: Main) -> bool:
    """Whether an operand is computed, not a view, for one reader."""
    from tvm import relax

    if not isinstance(operand, relax.Var) or operand not in main.bound or _viewed(operand, main) is not None:
        return False
    return len(main.users.get(operand, ())) == 1


def _emitted(emit: Emit, x: Any, shape: Sequence[int]) -> Any:
    view = _reshape(x, shape)
    return view if view is x else emit(view)


def _before(operand: Any, before: list[int], after: list[int]) -> list[int] | None:
    """The shape that makes an operand of a result of shape `after` one of a result of shape `before`; None where there is none."""
    own = known_sizes(operand)
    if own is None or len(own) == 0 or (math.prod(own) == 1 and len(own) <= 1):
        return own
    own = [1] * (len(after) - len(own)) + own
    shape = [1] * len(before)
    for source, result in groups(before, after):
        if all(own[axis] == after[axis] for axis in result):
            for axis in source:
                shape[axis] = before[axis]
        elif any(own[axis] != 1 for axis in result):
            return None
    return shape
