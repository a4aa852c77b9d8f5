"""A batch and its samples run one by one, value by value: the comparison under the proof of a symbolic batch.

Convolutions and products of a batch may add in another order than those of one sample, so float values differ in their last bits. Where
such a value is rounded, it may fall to the neighbouring step, and everything behind is off by far more than last bits: that says nothing
about samples seeing each other. So a sample that rounds to the neighbour of the batch's step, from inputs that agree, goes on from the
batch's value. A sum over the batch, however small its share, changes the value before the rounding by more than last bits and is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from effc.ir import source_of
from effc.ir.ops.quantize_linear import QUANTIZE_LINEAR

__all__ = ["Lockstep", "agree"]

TOLERANCE = 1e-4
_TOLERANCE_HALF = 2e-2

_ROUNDINGS = (QUANTIZE_LINEAR.overload, torch.ops.aten.round.default)


def agree(result: Tensor, want: Tensor) -> bool:
    """Equal to the tolerance of reordered sums, relative to the largest magnitude; integers and booleans exactly."""
    if result.shape != want.shape or result.dtype != want.dtype:
        return False
    if not result.dtype.is_floating_point and not result.dtype.is_complex:
        return torch.equal(result, want)
    if not result.numel():
        return True
    magnitude = float(want.nan_to_num(0.0, 0.0, 0.0).abs().max())
    coarse = TOLERANCE if result.dtype in (torch.float32, torch.float64) else _TOLERANCE_HALF
    return torch.allclose(result, want, rtol=coarse, atol=coarse * magnitude, equal_nan=True)


class Lockstep:
    """One exported program, run on batches and on their samples.

    Args:
        exported: with a symbolic leading dimension of the inputs where `carriers` says so.
        carriers: which inputs carry the batch.
        symbols: the spellings of the batch's size.
    """

    def __init__(self, exported: ExportedProgram, carriers: Sequence[bool], symbols: set[str]) -> None:
        self._module: Any = exported.module()
        self._carriers = list(carriers)
        self._axes = {node.name: _axis(node, symbols) for node in self._module.graph.nodes}
        rounding = [node for node in self._module.graph.nodes if node.target in _ROUNDINGS]
        self._watched = {other.name for node in rounding for other in (node, *node.all_input_nodes)}

    def together(self, inputs: Sequence[Tensor]) -> tuple[list[Tensor], dict[str, Tensor]]:
        """The outputs of a batch, and the values around its roundings."""
        plain = _flat(self._module(*(value.clone() for value in inputs)))  # with the guards on sizes, which an interpreter skips
        if not self._watched:
            return plain, {}
        run = _Run(self._module, lambda run, node, value: None, self._watched)
        return run.outputs(inputs), run.seen

    def alone(self, inputs: Sequence[Tensor], sample: int, batch: dict[str, Tensor]) -> list[Tensor]:
        """The outputs of one sample of `inputs`, with its roundings settled by the batch's values."""
        if not self._watched:
            return _flat(self._module(*(value.clone() for value in self._sample(inputs, sample))))
        run = _Run(self._module, lambda run, node, value: self._settled(node, value, run, batch, sample), self._watched)
        return run.outputs(self._sample(inputs, sample))

    def first_difference(self, inputs: Sequence[Tensor]) -> str:
        """The first node, in the user's words, whose value in the batch is not that of the sample alone; empty where none is found."""
        everything = {node.name for node in self._module.graph.nodes}
        together = _Run(self._module, lambda run, node, value: None, everything)
        together.outputs(inputs)
        for sample in range(len(inputs[self._carriers.index(True)])):

            def look(alone: _Run, node: fx.Node, value: Any, sample: int = sample) -> Tensor | None:
                settled = self._settled(node, value, alone, together.seen, sample)
                value = value if settled is None else settled
                expected = self._part(node.name, together.seen, sample)
                if isinstance(value, Tensor) and expected is not None and not agree(value, expected):
                    raise _FoundError(node)
                return settled

            try:
                _Run(self._module, look, everything).outputs(self._sample(inputs, sample))
            except _FoundError as found:
                return f"{source_of(found.node)} ({str(found.node.target).removesuffix('.default')})"
        return ""

    def _settled(self, node: fx.Node, value: Any, alone: _Run, batch: dict[str, Tensor], sample: int) -> Tensor | None:
        """The batch's value for a rounding that fell to a neighbour of it; None where the sample's own stands."""
        if node.target not in _ROUNDINGS or not isinstance(value, Tensor):
            return None
        expected = self._part(node.name, batch, sample)
        if expected is None or expected.shape != value.shape or torch.equal(expected, value):
            return None
        for other in node.all_input_nodes:
            given = self._part(other.name, batch, sample)
            if given is None or other.name not in alone.seen or not agree(alone.seen[other.name], given):
                return None
        near = (expected.to(torch.float64) - value.to(torch.float64)).abs() <= 1
        return expected.clone() if bool(near.all()) else None

    def _part(self, name: str, batch: dict[str, Tensor], sample: int) -> Tensor | None:
        """A sample's share of a value of the batch; all of a value without a batch; None where the share is not one slice."""
        value, axis = batch.get(name), self._axes[name]
        if value is None or axis is None:
            return None
        return value if axis < 0 else value.narrow(axis, sample, 1)

    def _sample(self, inputs: Sequence[Tensor], index: int) -> list[Tensor]:
        return [value[index : index + 1] if carries else value for value, carries in zip(inputs, self._carriers, strict=True)]


class _FoundError(Exception):
    """Ends a run at the node that was looked for."""

    def __init__(self, node: fx.Node) -> None:
        super().__init__(node.name)
        self.node = node


class _Run(fx.Interpreter):
    """Runs a module; `look` sees every value and may replace it. Values are cloned: what follows may overwrite them in place."""

    def __init__(self, module: Any, look: Callable[[_Run, fx.Node, Any], Tensor | None], watched: set[str]) -> None:
        super().__init__(module)
        self.extra_traceback = False  # it would lengthen the message of an error that becomes a reason
        self._look = look
        self._watched = watched
        self.seen: dict[str, Tensor] = {}

    def outputs(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        return _flat(self.run(*(value.clone() for value in inputs)))

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.op == "output":
            return value
        replaced = self._look(self, n, value)
        value = value if replaced is None else replaced
        if n.name in self._watched and isinstance(value, Tensor):
            self.seen[n.name] = value.clone()
        return value


def _axis(node: fx.Node, symbols: set[str]) -> int | None:
    """The dimension of a value that is the batch; -1 without a symbolic one, None where that is a multiple of the batch or several."""
    fake = node.meta.get("val")
    if node.op == "get_attr":
        return -1
    if not isinstance(fake, Tensor):
        return None
    found = [axis for axis, size in enumerate(fake.shape) if not isinstance(size, int)]
    if not found:
        return -1
    return found[0] if len(found) == 1 and str(fake.shape[found[0]]) in symbols else None


def _flat(results: Any) -> list[Tensor]:
    flat: list[Tensor] = torch.utils._pytree.tree_leaves(results)
    return flat
