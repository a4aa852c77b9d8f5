"""A symbolic batch for models that have one baked in: try it, prove it, or say why not.

Every trained ONNX file that was looked at has batch 1 written into it: in the input's shape, and as a literal 1 in a Reshape, an Expand or
a Concat further down. The graph is traced with a symbolic leading dimension; where a traced value carries it and the file says a
literal, `rewrite` puts the symbolic size. That is a guess about meaning, so it is proved by execution: at two batch sizes, every sample's
result equals that of the sample alone, and the untouched graph gives the same at its own batch. Otherwise the batch stays fixed,
and the program says why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.export import Dim, ExportedProgram

from effc.errors import EffcError
from effc.frontends.exporting import trace
from effc.frontends.onnx.interpreter import OnnxModule
from effc.frontends.onnx.operators.base import Node, Value
from effc.frontends.onnx.signature import Input
from effc.frontends.onnx.symbolic import settle
from effc.frontends.proof import unproved
from effc.ir import BATCH, Batch
from effc.ir.arrays import random_inputs

__all__ = ["Rewriter", "export_batched"]

_EXAMPLE = 3  # a batch of 1 would be specialised by torch


def export_batched(module: OnnxModule, inputs: Sequence[Input]) -> tuple[ExportedProgram, Batch]:
    """Export with a symbolic batch where that can be proved, else with the batch of the file and the reason."""
    reasons: list[str] = []
    for carriers in _candidates(inputs):
        rewriter = Rewriter(inputs[carriers.index(True)].shape[0])
        module.adapt = rewriter
        try:
            exported, why = _attempt(module, inputs, carriers)
        finally:
            module.adapt = None
        if exported is not None:
            return exported, Batch(True, rewriter.summary())
        if why not in reasons:
            reasons.append(why)
    if not reasons:
        reasons.append("no input has a leading dimension that could be a batch")
    shapes = [tuple(value.shape) for value in inputs]
    examples = random_inputs(shapes, [value.dtype for value in inputs], seed=0)
    return trace(module, tuple(examples)), Batch(False, reasons[0])


def _candidates(inputs: Sequence[Input]) -> Iterator[list[bool]]:
    """Which inputs may carry the batch, most likely first: all with the first one's leading size, those the file leaves open, the first."""
    leading = next((value.shape[0] for value in inputs if value.shape), None)
    guesses = [
        [bool(value.shape) and (value.open_batch or value.shape[0] == leading) for value in inputs],
        [bool(value.shape) and value.open_batch for value in inputs],
        [bool(value.shape) and position == 0 for position, value in enumerate(inputs)],
    ]
    seen: list[list[bool]] = []
    for guess in guesses:
        if any(guess) and guess not in seen:
            seen.append(guess)
            yield guess


def _attempt(module: OnnxModule, inputs: Sequence[Input], carriers: Sequence[bool]) -> tuple[ExportedProgram | None, str]:
    def inputs_at(batch: int, seed: int) -> list[Tensor]:
        shapes = [(batch, *value.shape[1:]) if carries else value.shape for value, carries in zip(inputs, carriers, strict=True)]
        return random_inputs(shapes, [value.dtype for value in inputs], seed=seed)

    dim = Dim(BATCH, min=1)
    dynamic = tuple({0: dim} if carries else None for carries in carriers)
    try:
        exported = trace(module, tuple(inputs_at(_EXAMPLE, _EXAMPLE)), (dynamic,))
    except EffcError:
        raise
    except Exception as error:  # noqa: BLE001 - the tracer raises many kinds; each is a reason why the batch stays fixed
        return None, f"at {module.trail.node}: {_brief(error)}" if module.trail.node else _brief(error)
    rewriter, module.adapt = module.adapt, None
    try:
        own = inputs[list(carriers).index(True)].shape[0]
        why = unproved(exported, inputs_at, carriers, original=module, own_batch=own)
    except (RuntimeError, IndexError) as error:  # the data itself is at fault: a division of integers by a random zero, an index
        why = f"it cannot run on random inputs: {_brief(error)}"
    finally:
        module.adapt = rewriter
    return (None, why) if why else (exported, "")


def _brief(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text[:240] or type(error).__name__


# ---- literals that mean the batch --------------------------------------------------------------------------------------------------


class Rewriter:
    """Replaces literals that mean the batch, where a traced value carries a symbolic one.

    Args:
        batch: the size that the file has baked in.
    """

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.changed: list[str] = []

    def __call__(self, node: Node, inputs: list[Value]) -> list[Value]:
        rule = _RULES.get(node.op) if node.domain == "" else None
        if rule is None:
            return inputs
        adapted = rule(self, node, inputs)
        if adapted is not inputs and node.name not in self.changed:
            self.changed.append(node.name)
        return adapted

    def summary(self) -> str:
        """Which nodes had a literal batch, in words; empty where none had."""
        return f"a literal batch of {self.batch} was made symbolic at: {', '.join(self.changed)}" if self.changed else ""


def _carries(value: Value) -> bool:
    return isinstance(value, Tensor) and any(not isinstance(size, int) for size in value.shape)


def _literals(value: Value) -> list[Any] | None:
    """The elements of a known shape; None where it is computed from data."""
    return list(value.reshape(-1)) if isinstance(value, np.ndarray) else None


def _reshape(rewriter: Rewriter, node: Node, inputs: list[Value]) -> list[Value]:
    """The literal of a Reshape where the batch lands, found from what stands before it in memory order."""
    x = inputs[0]
    given = _literals(inputs[1]) if len(inputs) > 1 else None
    if not isinstance(x, Tensor) or not given or any(not isinstance(size, int | np.integer) for size in given):
        return inputs
    carrying = [axis for axis, size in enumerate(x.shape) if not isinstance(size, int)]
    sizes = [int(size) for size in given]
    if len(carrying) != 1:
        return inputs
    axis = carrying[0]
    if not node.get("allowzero", 0):
        if axis < len(sizes) and sizes[axis] == 0:
            return inputs  # copies the symbolic size
        sizes = [x.shape[i] if size == 0 and i < x.ndim else size for i, size in enumerate(sizes)]
    factor = _factor(x.shape[axis])
    baked = [factor * rewriter.batch if i == axis else int(size) for i, size in enumerate(x.shape)]
    full = _resolved(sizes, math.prod(baked))
    batch = x.shape[axis] // factor
    moved = _moved(baked, full, axis, rewriter.batch) if factor == 1 else None
    if moved is not None:  # at a batch of 1 a transpose may have been written as a Reshape
        x = x.movedim(axis, moved)
        return [x, settle([batch if i == moved else size for i, size in enumerate(full)]), *inputs[2:]]
    place = _landing(full, math.prod(baked[:axis]), factor, rewriter.batch)
    if place is None or sizes[place] == -1:
        return inputs
    sizes[place] = full[place] // rewriter.batch * batch if -1 in sizes and full[place] % rewriter.batch == 0 else -1
    return inputs if sizes.count(-1) > 1 else [x, settle(sizes), *inputs[2:]]


def _factor(size: Any) -> int:
    """How many times the batch a symbolic size is: 10 for `10*batch`. From the traced example; the proof judges the guess."""
    hint = size.node.hint
    return max(1, int(hint) // _EXAMPLE) if hint is not None else 1


def _resolved(sizes: Sequence[int], elements: int) -> list[int]:
    known = math.prod(size for size in sizes if size != -1)
    return [elements // known if size == -1 and known else size for size in sizes]


def _moved(baked: Sequence[int], full: Sequence[int], axis: int, batch: int) -> int | None:
    """Where the batch goes when a Reshape only moves it past other dimensions; None where it does something else."""
    rest = [*baked[:axis], *baked[axis + 1 :]]
    places = [i for i, size in enumerate(full) if size == batch and [*full[:i], *full[i + 1 :]] == rest]
    crossed = [i for i in places if math.prod(full[min(i, axis) : max(i, axis) + 1]) != batch]
    return crossed[0] if crossed and axis not in places else None


def _landing(full: Sequence[int], before: int, factor: int, batch: int) -> int | None:
    """The position in the new shape that the batch takes: behind as many elements as stand before it in the old one."""
    products = [math.prod(full[:i]) for i in range(len(full))]
    inner = [i for i, product in enumerate(products) if factor > 1 and product == before * factor and full[i] == batch]
    literal = [i for i, product in enumerate(products) if product == before and full[i] == batch]
    merged = [i for i, product in enumerate(products) if product == before and full[i] % batch == 0]
    # Between the last dimension (features) and the one before it, the batch joins the samples' side.
    merged = [i - 1 if i and i == len(full) - 1 else i for i in merged]
    return next(iter([*inner, *literal, *reversed(merged)]), None)


def _expand(rewriter: Rewriter, node: Node, inputs: list[Value]) -> list[Value]:
    x, sizes = inputs[0], _literals(inputs[1])
    if not _carries(x) or not sizes or not isinstance(x, Tensor) or len(sizes) != x.ndim or isinstance(x.shape[0], int):
        return inputs
    if isinstance(sizes[0], int | np.integer) and sizes[0] == rewriter.batch != 1:
        return [x, settle([x.shape[0], *sizes[1:]])]
    return inputs


def _concat(rewriter: Rewriter, node: Node, inputs: list[Value]) -> list[Value]:
    """A learned token of batch 1 beside a traced value: every sample gets its own copy."""
    tensors = [value for value in inputs if isinstance(value, Tensor)]
    carrying = [value for value in tensors if value.ndim and not isinstance(value.shape[0], int)]
    if not carrying or len(carrying) == len(inputs) or int(node.get("axis", 0)) in (0, -carrying[0].ndim):
        return inputs
    batch = carrying[0].shape[0]
    return [_spread(value, 0, batch, rewriter) for value in inputs]


def _spread(value: Value, axis: int, batch: Any, rewriter: Rewriter) -> Value:
    from effc.frontends.onnx.operators.values import tensor

    if value is None or value.shape[axis] != rewriter.batch or not isinstance(value.shape[axis], int):
        return value
    full = tensor(value)
    one = full.narrow(axis, 0, 1)
    return one.expand(*(batch if i == axis else size for i, size in enumerate(full.shape)))


def _gather_elements(rewriter: Rewriter, node: Node, inputs: list[Value]) -> list[Value]:
    """Indices for one sample beside a traced value: the same ones for every sample."""
    x, indices = inputs[0], inputs[1]
    if not isinstance(x, Tensor) or isinstance(x.shape[0], int) or int(node.get("axis", 0)) in (0, -x.ndim) or indices is None:
        return inputs
    adapted = [x, *(_spread(value, 0, x.shape[0], rewriter) for value in inputs[1:])]
    return adapted if any(new is not old for new, old in zip(adapted, inputs, strict=True)) else inputs


def _resize(rewriter: Rewriter, node: Node, inputs: list[Value]) -> list[Value]:
    sizes = _literals(inputs[3]) if len(inputs) > 3 else None
    x = inputs[0]
    if not _carries(x) or not sizes or node.get("axes") is not None or not isinstance(x, Tensor) or sizes[0] != rewriter.batch:
        return inputs
    return [*inputs[:3], settle([x.shape[0], *sizes[1:]])]


def _recurrent(rewriter: Rewriter, node: Node, inputs: list[Value]) -> list[Value]:
    """Initial states of a fixed batch: the same one for every sample."""
    x = inputs[0]
    if not _carries(x) or not isinstance(x, Tensor) or isinstance(x.shape[1], int):
        return inputs
    adapted = [
        _spread(value, 1, x.shape[1], rewriter) if position in (5, 6) and value is not None else value
        for position, value in enumerate(inputs)
    ]
    return adapted if any(new is not old for new, old in zip(adapted, inputs, strict=True)) else inputs


_RULES: dict[str, Callable[[Rewriter, Node, list[Value]], list[Value]]] = {
    "Reshape": _reshape,
    "Expand": _expand,
    "Concat": _concat,
    "Resize": _resize,
    "GatherElements": _gather_elements,
    "ScatterElements": _gather_elements,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
}
