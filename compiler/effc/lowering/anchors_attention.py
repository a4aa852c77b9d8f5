"""Attention as one function: scores, softmax and weighted sum, reading its operands where the projections left them.

    scores[b, h, i, j] = sum over d of query[b, h, i, d] * key[b, h, j, d]
    masked             = scores * scale + bias, minus infinity where the mask is causal and j > i
    weight[b, h, i, j] = exp(masked - largest over j) / (their sum over j, or 1 where that is 0: a query that may look at nothing)
    attention[b, i, h, d] = sum over j of weight[b, h, i, j] * value[b, h, j, d]

`kernels.attention` writes the loops. As blocks it is the plain computation, for whatever that rule does not take.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from effc.lowering.kernels.fused import ANCHOR
from effc.lowering.moves import Source, sources
from effc.lowering.relax_converters.attention import simple
from effc.lowering.relax_edit import Main

__all__ = ["MASKED", "OUT_ELEMENTWISE", "SCORES", "attention", "attention_work", "permuted"]

SCORES, MASKED = "effc.scores", "effc.masked"  # annotations of the blocks that the kernel asks for
OUT_ELEMENTWISE = 4  # relax's pattern of functions that elementwise operators are fused behind
_NAMES = ("relax.nn.attention", "relax.nn.attention_bias")


def attention(builder: Any, call: Any, main: Main) -> Any:
    """The operator itself, results as [batch, queries, heads, channels]."""
    if str(call.ty.dtype) != "float32":
        return simple(call, builder.emit)
    return _function(builder, call, main, (0, 1, 2, 3))


def permuted(builder: Any, call: Any, main: Main) -> Any:
    """A transposition of attention's results, which then are stored where it would put them; channels stay last."""
    inner = _inner(call, main)
    return None if inner is None else _function(builder, inner, main, tuple(int(axis) % 4 for axis in call.attrs.axes))


def attention_work(main: Main) -> dict[str, int]:
    """Multiply-accumulates of attention, by the name of the variable that will be bound to its kernel."""
    found: dict[str, int] = {}
    for variable, value in main.bound.items():
        call = value if _is_attention(value) else _inner(value, main)
        if call is None or any(_inner(main.bound.get(user), main) is call for user in main.users.get(variable, ())):
            continue
        batch, queries, heads, channels = _sizes(call.args[0])
        _, keys, _, out = _sizes(call.args[2])
        found[str(variable.name)] = batch * heads * queries * keys * (channels + out)
    return found


def _is_attention(value: Any) -> bool:
    return str(getattr(getattr(value, "op", None), "name", "")) in _NAMES and str(value.ty.dtype) == "float32"


def _inner(call: Any, main: Main) -> Any:
    """The attention whose results are read by nothing but this transposition; None for another expression."""
    if str(getattr(getattr(call, "op", None), "name", "")) != "relax.permute_dims" or call.attrs.axes is None:
        return None
    inner = main.bound.get(call.args[0])
    if not _is_attention(inner) or len(main.users[call.args[0]]) != 1 or int(call.attrs.axes[-1]) % 4 != 3:
        return None
    return inner


def _sizes(value: Any) -> list[int]:
    return [int(size) for size in value.ty.shape]


def _function(builder: Any, call: Any, main: Main, axes: Sequence[int]) -> Any:
    """A call of the annotated function.

    Args:
        axes: which of [batch, queries, heads, channels] comes where in the result.
    """
    from tvm import te, tirx

    batch, queries, heads, channels = _sizes(call.args[0])
    _, keys, own, out = _sizes(call.args[2])
    shape = [(batch, queries, heads, out)[axis] for axis in axes]
    causal, scale = call.attrs.causal_mask is not None, float(call.attrs.scale)
    operands = [_operand(x, main) for x in call.args[:3]]
    bias = call.args[3] if len(call.args) > 3 else None
    variables: list[Any] = []  # queries, keys and values may be parts of one tensor
    for operand in operands:
        if not any(operand.variable.same_as(one) for one in variables):
            variables.append(operand.variable)
    which = [next(i for i, one in enumerate(variables) if one.same_as(operand.variable)) for operand in operands]

    def made(*tensors: Any) -> Any:
        def part(number: int, name: str, extents: Sequence[int]) -> Any:
            # [batch, heads, positions, channels], which the operand holds as [batch, positions, heads, channels]
            def element(b: Any, h: Any, i: Any, d: Any) -> Any:
                place = operands[number].place([b, i, h, d], [extents[0], extents[2], extents[1], extents[3]])
                return tensors[which[number]][tuple(place)]

            return te.compute(list(extents), element, name=name)

        query = part(0, "query", (batch, heads, queries, channels))
        key = part(1, "key", (batch, own, keys, channels))
        value = part(2, "value", (batch, own, keys, out))
        sizes = {"d": channels, "j": keys, "most": keys, "all": keys}
        d, j, most, every = (te.reduce_axis((0, size), name=name) for name, size in sizes.items())

        def share(h: Any) -> Any:
            return h if own == heads else tirx.floordiv(h, heads // own)

        full = [batch, heads, queries, keys]
        scores = te.compute(
            full,
            lambda b, h, i, j: te.sum(query[b, h, i, d.var] * key[b, share(h), j, d.var], axis=d),
            name="scores",
            attrs={SCORES: 1},
        )

        def admitted(b: Any, h: Any, i: Any, j: Any) -> Any:
            score = scores[b, h, i, j] * tirx.const(scale, "float32")
            if bias is not None:
                own = [int(size) for size in tensors[-1].shape]
                score = score + tensors[-1][tuple(0 if size == 1 else place for size, place in zip(own, (b, h, i, j), strict=True))]
            return tirx.Select(j <= i, score, tirx.const(float("-inf"), "float32")) if causal else score

        masked = te.compute(full, admitted, name="masked", attrs={MASKED: 1})
        zero, one, never = (tirx.const(number, "float32") for number in (0.0, 1.0, float("-inf")))
        largest = te.compute(full[:3], lambda b, h, i: te.max(masked[b, h, i, most.var], axis=most), name="largest")

        def exponential(b: Any, h: Any, i: Any, j: Any) -> Any:
            return tirx.exp(masked[b, h, i, j] - tirx.Select(largest[b, h, i] == never, zero, largest[b, h, i]))

        raised = te.compute(full, exponential, name="raised")
        total = te.compute(full[:3], lambda b, h, i: te.sum(raised[b, h, i, every.var], axis=every), name="total")
        weight = te.compute(
            full, lambda b, h, i, j: raised[b, h, i, j] / tirx.Select(total[b, h, i] == zero, one, total[b, h, i]), name="weight"
        )

        def element(*index: Any) -> Any:
            b, i, h, d = (index[axes.index(axis)] for axis in range(4))
            return te.sum(weight[b, h, i, j.var] * value[b, share(h), j.var, d], axis=j)

        annotations = {ANCHOR: "attention", "effc.axes": list(axes), "effc.causal": int(causal)}
        return te.compute(shape, element, name="attention", attrs=annotations)

    result = builder.call_te(made, *variables, *([] if bias is None else [bias]), primfunc_name_hint="attention")
    function = builder.get()[result.args[0]]
    builder.update_func(result.args[0], function.with_attr("op_pattern", OUT_ELEMENTWISE))
    return result


def _operand(x: Any, main: Main) -> Source:
    """As far back as an element's place is a sum of multiples of its position and channel: a step of one channel is one in memory."""
    found = sources(x, main)
    sizes = _sizes(x)
    return next(one for one in reversed(found) if one is found[0] or _is_plain(one, sizes))


def _is_plain(source: Source, sizes: Sequence[int]) -> bool:
    from tvm import tirx

    b, i, h, d = (tirx.Var(name, "int32") for name in "bihd")
    places = source.place([b, i, h, d], sizes)
    moving = [variable for variable, size in ((i, sizes[1]), (d, sizes[3])) if size != 1]
    return not any(_divides(place, moving) for place in places)


def _divides(expression: Any, variables: Sequence[Any]) -> bool:
    """Whether a quotient or remainder depends on one of the variables."""
    from tvm import tirx

    if isinstance(expression, (tirx.FloorDiv, tirx.FloorMod)):
        return any(variable.same_as(one) for variable in variables for one in _variables(expression))
    return any(_divides(getattr(expression, side), variables) for side in "ab" if hasattr(expression, side))


def _variables(expression: Any) -> list[Any]:
    from tvm import tirx

    if isinstance(expression, tirx.Var):
        return [expression]
    return [one for side in "ab" if hasattr(expression, side) for one in _variables(getattr(expression, side))]
