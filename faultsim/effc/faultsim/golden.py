"""A program that runs node by node and keeps every value: the golden run, and reruns of what a fault reaches.

`Runner.golden` computes all values of a batch once. `Runner.rerun` starts at the first nodes that a fault touches and recomputes only what
depends on them (*late start*); a node whose new value equals the golden one bit for bit stops the spread, and the run ends where nothing
differs any more (*early stop*). Both give the bits of a whole pass: every operator sees the tensors that it would have seen there, at the
same batch size and number of threads.

Comparing costs a pass over memory, so it is done where values can become equal again: after operators that map many values to one (a
ReLU, a maximum, a bound, a rounding), and at the first nodes. A convolution whose input differs is not compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from effc.faultsim.sites import operator_name
from effc.ir import Program

__all__ = ["Golden", "OperatorError", "Rerun", "Runner", "same_bits"]

# Operators that hardly ever give equal results for different inputs: a sum of many products.
_SPREADING = frozenset(("conv1d", "conv2d", "conv3d", "conv_transpose2d", "linear", "matmul", "mm", "bmm", "addmm", "mean", "sum"))
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Golden:
    """All values of one batch by node index; `outputs` are the program's results, `size` the samples.

    `sharing` holds, by the index of each stored tensor, itself and the values that are in its memory under another shape: a fault changes
    them with the tensor, so they cannot be compared with. It is seen from the values, as operators' schemas do not always say it.
    """

    values: list[Any]
    outputs: tuple[Tensor, ...]
    size: int
    sharing: Mapping[int, frozenset[int]]
    stored: frozenset[int] = frozenset()

    @property
    def nbytes(self) -> int:
        """Memory of the values, views counted once and stored tensors not at all: they are there anyway."""
        storages = {leaf.untyped_storage().data_ptr(): leaf.untyped_storage().nbytes() for leaf in tree_leaves(self.values) if _is(leaf)}
        stored = {self.values[position].untyped_storage().data_ptr() for position in self.stored}
        return sum(size for place, size in storages.items() if place not in stored)


@dataclass(frozen=True)
class Rerun:
    """What a faulty run gave.

    Attributes:
        outputs: the results; None where all of them equal the golden ones bit for bit.
        nodes: operators that were computed.
    """

    outputs: tuple[Tensor, ...] | None
    nodes: int


class OperatorError(Exception):
    """An operator refused what a fault made of its inputs: an index out of range, a size that does not fit."""


class Runner:
    """A program as a list of steps.

    Args:
        program: its stored tensors are used as they are: faults are written into them in place.
        early_stop: whether values are compared with the golden ones; without it everything behind the fault is recomputed.
        late_start: whether a rerun starts at the fault; without it every run computes every operator.
        computing: by a node's name what computes it in the place of its operator, from the same arguments.
    """

    def __init__(
        self,
        program: Program,
        *,
        early_stop: bool = True,
        late_start: bool = True,
        computing: Mapping[str, Callable[..., Any]] | None = None,
    ) -> None:
        self.program = program
        self._early, self._late = early_stop, late_start
        nodes = list(program.graph.nodes)
        self._index = {node: position for position, node in enumerate(nodes)}
        self._steps = [_Step(node, self._index, (computing or {}).get(node.name)) for node in nodes]
        # an operator that reads memory by strides of its own must get the strides that it was exported for
        self._any_strides = not any(operator_name(node) == "as_strided" for node in nodes if node.op == "call_function")
        self._inputs = [self._index[node] for node in program.input_nodes.values()]
        self._stored = {self._index[node]: program.tensors[node.name] for node in nodes if node.name in program.tensors}
        results: Any = program.graph.output_node().args[0]
        self._results = [self._index[node] for node in results]
        self._readers = [[self._index[user] for user in node.users if user.op != "output"] for node in nodes]
        self._by_name = {node.name: position for position, node in enumerate(nodes)}
        self._last_use = [max(readers, default=position) for position, readers in enumerate(self._readers)]
        self._dead: list[list[int]] = [[] for _ in nodes]  # values that nothing reads after a position
        for position, last in enumerate(self._last_use):
            if position not in self._results:
                self._dead[last].append(position)

    def position(self, key: str) -> int:
        """Where a node or placeholder of that name stands."""
        return self._by_name[key]

    def golden(self, inputs: Sequence[Tensor]) -> Golden:
        """Compute everything. Inputs in the interface's order; images are laid out with their channels last, which convolutions prefer."""
        values: list[Any] = [None] * len(self._steps)
        for position, tensor in self._stored.items():
            values[position] = tensor
        for position, tensor in zip(self._inputs, inputs, strict=True):
            images = tensor.dim() == 4 and self._any_strides
            values[position] = tensor.contiguous(memory_format=torch.channels_last) if images else tensor
        with torch.inference_mode():
            for position, step in enumerate(self._steps):
                if step.target is not None:
                    values[position] = step.run(values)
        sharing = self._sharing(values)
        theirs = frozenset[int]().union(*sharing.values())
        outputs = tuple(values[position].clone() if position in theirs else values[position] for position in self._results)
        return Golden(values, outputs, len(inputs[0]) if inputs else 1, sharing, frozenset(self._stored))

    def rerun(self, golden: Golden, stored: Sequence[str], changes: Mapping[str, Change], anew: Sequence[str] = ()) -> Rerun:
        """The same batch with faults.

        Args:
            golden: of this batch, made before the fault.
            stored: keys of the stored tensors that are faulty now (they were changed in place).
            changes: key of a value -> what becomes of it once it is computed.
            anew: names of nodes whose results may be others now although nothing that they read is.

        Raises:
            OperatorError: the fault made an operator fail.
        """
        starts = {reader for key in stored for reader in self._readers[self.position(key)]} | {self.position(name) for name in anew}
        touched = {self.position(key): change for key, change in changes.items()}
        pending = starts | touched.keys()
        shared = frozenset[int]().union(*(golden.sharing[self.position(key)] for key in stored))
        values, computed, end = golden.values, 0, max(pending, default=-1)
        fresh: dict[int, Any] = {}
        with torch.inference_mode():
            position = min(pending, default=0)
            if not self._late:
                computed = self._prefix(values, position)
            while position <= end:
                step = self._steps[position]
                must = position in starts or any(one in fresh for one in step.reads)
                if must or position in touched:
                    value = _attempted(step, _Overlaid(values, fresh)) if must else values[position]
                    computed += must
                    if position in touched:
                        value = touched[position](value)
                    compared = self._early and position not in shared and (position in pending or not step.spreads)
                    if not (compared and same_bits(value, values[position])):
                        fresh[position] = value
                        end = max(end, self._last_use[position])
                for dead in self._dead[position]:
                    fresh.pop(dead, None)
                position += 1
        if not any(position in fresh or position in shared for position in self._results):
            return Rerun(None, computed)
        outputs = tuple(fresh.get(position, values[position]) for position in self._results)
        if all(same_bits(new, old) for new, old in zip(outputs, golden.outputs, strict=True)):
            return Rerun(None, computed)
        return Rerun(outputs, computed)

    def _prefix(self, values: list[Any], end: int) -> int:
        """Compute what stands before `end` once more, as a run without late start does; how many operators that were."""
        again = list(values)
        for position, step in enumerate(self._steps[:end]):
            if step.target is not None:
                again[position] = step.run(again)
            for dead in self._dead[position]:
                again[dead] = values[dead]
        return sum(step.target is not None for step in self._steps[:end])

    def _sharing(self, values: Sequence[Any]) -> dict[int, frozenset[int]]:
        holders: dict[int, set[int]] = {}
        for position, value in enumerate(values):
            for leaf in filter(_is, tree_leaves(value)):
                holders.setdefault(leaf.untyped_storage().data_ptr(), set()).add(position)
        return {position: frozenset(holders[tensor.untyped_storage().data_ptr()]) for position, tensor in self._stored.items()}


class _Overlaid:
    """Golden values with fresh ones over them."""

    __slots__ = ("_fresh", "_values")

    def __init__(self, values: list[Any], fresh: dict[int, Any]) -> None:
        self._values, self._fresh = values, fresh

    def __getitem__(self, position: int) -> Any:
        fresh = self._fresh.get(position, self)
        return self._values[position] if fresh is self else fresh


@dataclass(frozen=True)
class _Ref:
    position: int


class _Step:
    """One node, its arguments ready to be filled in."""

    def __init__(self, node: fx.Node, index: Mapping[fx.Node, int], computing: Callable[..., Any] | None = None) -> None:
        self.target: Any = computing or (node.target if node.op == "call_function" else None)
        if self.target == torch.ops.aten.view.default:
            self.target = torch.ops.aten.reshape.default  # the same for any strides
        self.reads = tuple(index[one] for one in node.all_input_nodes)
        name = operator_name(node) if node.op == "call_function" else ""
        self.spreads = name in _SPREADING
        mapped: Any = fx.node.map_arg  # its types say nodes become nodes
        self._args: Any = mapped(node.args, lambda one: _Ref(index[one]))
        self._kwargs: Any = mapped(node.kwargs, lambda one: _Ref(index[one]))
        flat = not any(isinstance(one, list | tuple | dict) and _holds(one) for one in self._args)
        self._plain = list(self._args) if flat and not node.kwargs else None  # most nodes: nothing to search for references

    def run(self, values: Any) -> Any:
        if self._plain is not None:
            return self.target(*[values[one.position] if type(one) is _Ref else one for one in self._plain])
        return self.target(*_filled(self._args, values), **_filled(self._kwargs, values))


def _attempted(step: _Step, values: Any) -> Any:
    try:
        return step.run(values)
    except (RuntimeError, IndexError, ValueError, OverflowError) as error:  # what torch's operators raise for operands they refuse
        if "allocat" in str(error):  # torch says that memory ran out with a RuntimeError
            raise MemoryError(str(error)) from error
        raise OperatorError(str(error)) from error


def _holds(argument: Any) -> bool:
    if isinstance(argument, _Ref):
        return True
    if isinstance(argument, list | tuple):
        return any(_holds(one) for one in argument)
    return isinstance(argument, dict) and any(_holds(one) for one in argument.values())


def _filled(argument: Any, values: Any) -> Any:
    if isinstance(argument, _Ref):
        return values[argument.position]
    if isinstance(argument, list | tuple):
        return type(argument)(_filled(one, values) for one in argument)
    if isinstance(argument, dict):
        return {key: _filled(one, values) for key, one in argument.items()}
    return argument


def same_bits(new: Any, old: Any) -> bool:
    """Whether two values are the same bits: NaN equals itself, and zero is not minus zero."""
    if isinstance(new, Tensor) and isinstance(old, Tensor):
        if new.shape != old.shape or new.dtype != old.dtype:
            return False
        if new is old:
            return True
        if new.dtype.is_floating_point:
            kind = _INTEGERS[new.element_size()]
            return torch.equal(new.view(kind), old.view(kind))
        return torch.equal(new, old)
    if isinstance(new, list | tuple):
        return len(new) == len(old) and all(same_bits(one, other) for one, other in zip(new, old, strict=True))
    return bool(new == old)


def _is(leaf: Any) -> bool:
    return isinstance(leaf, Tensor)
