"""`aten.scaled_dot_product_attention` as one operator, and the same in simple ones where no kernel takes it whole.

torch's decomposition computes it in twenty operators over a tensor of [heads, queries, keys]. Relax's operator keeps it together until
`anchors_attention` makes a kernel of it. Its operands have the heads behind the positions ([batch, positions, heads, channels]): the
transpositions that this takes undo those of the model, and what is left of them becomes part of the kernel's index arithmetic.

A query that may look at no key gets zeros, as torch has it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import fx

__all__ = ["convert", "simple", "written_out"]

Emit = Callable[[Any], Any]
_HEADS_LAST = [0, 2, 1, 3]


def convert(node: fx.Node, importer: Any) -> Any:
    """Half-precision operands are widened and the result is rounded once. Raises ValueError for dropout, which is none at inference."""
    from tvm import relax

    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    given = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    if float(given.get("dropout_p", 0.0)) != 0.0:  # type: ignore[arg-type]
        raise ValueError("attention with dropout is random; export the model in eval mode")
    emit = importer.block_builder.emit
    query, key, value = (_wide(importer.env[given[name]], emit) for name in names[:3])
    shape = [int(size) for size in node.meta["val"].shape]
    if int(key.ty.shape[-2]) == 0:  # nothing to look at
        return emit(relax.op.zeros(shape, str(node.meta["val"].dtype).removeprefix("torch.")))
    if not given.get("enable_gqa", False) or _sizes(key)[-3] != _sizes(value)[-3]:
        key, value = (_repeated(x, shape[-3] if len(shape) > 2 else 1, emit) for x in (key, value))
    batch, heads = shape[:-3], shape[-3] if len(shape) > 2 else 1
    operands = []
    for x in (query, key, value):
        *_, positions, channels = sizes = _sizes(x)
        own = sizes[-3] if len(sizes) > 2 else 1
        full = [*batch, own, positions, channels]
        if len(shape) > 2 and sizes != full:
            x = emit(relax.op.broadcast_to(x, full))
        operands.append(emit(relax.op.permute_dims(_reshaped(x, [math.prod(batch), own, positions, channels], emit), _HEADS_LAST)))
    scale = given.get("scale")
    mask = given.get("attn_mask")
    result = emit(
        relax.op.nn.attention(
            *operands,
            None if mask is None else _bias(_wide(importer.env[mask], emit), shape, _sizes(key)[-2], emit),
            scale=1.0 / math.sqrt(_sizes(query)[-1]) if scale is None else float(scale),  # type: ignore[arg-type]
            causal_mask="TopLeft" if given.get("is_causal", False) else None,
        )
    )
    assert heads == int(result.ty.shape[2])
    return _reshaped(emit(relax.op.permute_dims(result, _HEADS_LAST)), shape, emit)


def _sizes(x: Any) -> list[int]:
    return [int(size) for size in x.ty.shape]


def _wide(x: Any, emit: Emit) -> Any:
    from tvm import relax

    return emit(relax.op.astype(x, "float32")) if str(x.ty.dtype) in ("float16", "bfloat16") else x


def _reshaped(x: Any, shape: Sequence[int], emit: Emit) -> Any:
    from tvm import relax

    return x if _sizes(x) == list(shape) else emit(relax.op.reshape(x, list(shape)))


def _repeated(x: Any, heads: int, emit: Emit) -> Any:
    """[..., own heads, positions, channels] with each head so often that there are `heads`."""
    from tvm import relax

    *batch, positions, channels = _sizes(x)
    if not batch or batch[-1] in (1, heads):  # one head is broadcast
        return x
    several = [*batch, heads // batch[-1], positions, channels]
    x = emit(relax.op.broadcast_to(_reshaped(x, [*batch, 1, positions, channels], emit), several))
    return _reshaped(x, [*batch[:-1], heads, positions, channels], emit)


def _bias(mask: Any, shape: Sequence[int], keys: int, emit: Emit) -> Any:
    """What is added to the scores, as [1 or batch, 1 or heads, 1 or queries, keys]: 0 or minus infinity for a mask of truth values."""
    from tvm import relax

    sizes = [1] * (len(shape) - len(_sizes(mask))) + _sizes(mask)
    if sizes[-1] != keys:
        sizes[-1] = keys
        mask = emit(relax.op.broadcast_to(mask, sizes))
    if str(mask.ty.dtype) == "bool":
        zero, never = (relax.const(value, "float32") for value in (0.0, -math.inf))
        mask = emit(relax.op.where(mask, zero, never))
    batch = sizes[:-3]
    if any(size != 1 for size in batch):
        batch = list(shape[:-3])
        mask = emit(relax.op.broadcast_to(mask, [*batch, *sizes[-3:]]))
    return _reshaped(mask, [math.prod(batch), *([1] * (3 - len(sizes[-3:]))), *sizes[-3:]], emit)


def simple(call: Any, emit: Emit) -> Any:
    """Relax's attention operator in matrix products and elementwise operators: what is computed, for any floating type."""
    from tvm import relax

    op, dtype = relax.op, str(call.ty.dtype)
    query, key, value = (emit(op.permute_dims(x, _HEADS_LAST)) for x in call.args[:3])
    heads, queries, keys = _sizes(query)[1], _sizes(query)[2], _sizes(key)[2]
    key, value = (_every_head(x, heads, emit) for x in (key, value))
    scores = emit(op.matmul(query, emit(op.permute_dims(key, [0, 1, 3, 2])), out_dtype=dtype))
    scores = emit(op.multiply(scores, relax.const(float(call.attrs.scale), dtype)))
    never = relax.const(-math.inf, dtype)
    if len(call.args) > 3:
        scores = emit(op.add(scores, emit(op.astype(call.args[3], dtype))))
    if call.attrs.causal_mask is not None:
        row = emit(op.reshape(emit(op.arange(0, queries, 1, "int32")), [queries, 1]))
        column = emit(op.reshape(emit(op.arange(0, keys, 1, "int32")), [1, keys]))
        scores = emit(op.where(emit(op.less_equal(column, row)), scores, never))
    # The largest of nothing but minus infinity is a finite number to TVM: all weights become 0 then, as they should.
    shifted = emit(op.subtract(scores, emit(op.max(scores, [-1], keepdims=True))))
    weights = emit(op.exp(shifted))
    total = emit(op.sum(weights, [-1], keepdims=True))
    zero, one = (relax.const(number, dtype) for number in (0.0, 1.0))
    total = emit(op.where(emit(op.equal(total, zero)), one, total))
    result = emit(op.matmul(emit(op.divide(weights, total)), value, out_dtype=dtype))
    return op.permute_dims(result, _HEADS_LAST)


def _every_head(x: Any, heads: int, emit: Emit) -> Any:
    from tvm import relax

    batch, own, positions, channels = _sizes(x)
    x = _repeated(x, heads, emit)
    return x if own != 1 else emit(relax.op.broadcast_to(x, [batch, heads, positions, channels]))


def written_out(module: Any) -> Any:
    """The module with attention in simple operators."""
    from effc.lowering.relax_edit import Main, rewritten_with_builder

    def make(builder: Any) -> Callable[[Any, Main], Any]:
        def rewrite(call: Any, main: Main) -> Any:
            return simple(call, builder.emit) if str(getattr(call.op, "name", "")).startswith("relax.nn.attention") else None

        return rewrite

    return rewritten_with_builder(module, make)
