"""The only way to train a program: `trainable` makes an nn.Module of it, `with_parameters` writes the result back.

A module of torch.export refuses `.train()`: its batch norms and dropouts carry `training=False` as an argument. Here those arguments are
switched by `train()` and `eval()`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from effc.errors import ConfigError, InternalError, Problem
from effc.ir.edit import Edit
from effc.ir.program import Program

__all__ = ["TrainableProgram", "trainable", "with_parameters"]

_aten = torch.ops.aten
_TRAINING_ARGUMENT = {_aten.batch_norm.default: 5, _aten.dropout.default: 2}
BatchNorm = Literal["frozen", "train"]


class TrainableProgram(nn.Module):
    """A program whose parameters train.

    Args:
        program: the program; it is not changed.
        batch_norm: `frozen` keeps the stored mean and variance and uses them also while training; `train` uses the batch's own and updates
            the stored ones.

    Parameters and buffers keep their source names with dots as `__`, as a flat module cannot have dots; `source_state` gives them back.
    """

    def __init__(self, program: Program, batch_norm: BatchNorm) -> None:
        super().__init__()
        self._graph_module = _switchable(program)
        self._switches = [
            (node, _TRAINING_ARGUMENT[node.target])
            for node in self._graph_module.graph.nodes
            if node.target in _TRAINING_ARGUMENT and (batch_norm == "train" or node.target != _aten.batch_norm.default)
        ]
        self._order: list[str] = []
        self._sources: dict[str, str] = {}
        for placeholder, name in program.tensor_names.items():
            flat = name.replace(".", "__")
            value = program.tensors[placeholder].detach().clone()
            if isinstance(program.tensors[placeholder], nn.Parameter):
                self.register_parameter(flat, nn.Parameter(value, requires_grad=value.is_floating_point()))
            else:
                self.register_buffer(flat, value)
            self._order.append(flat)
            self._sources[flat] = name
        self.eval()

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Inputs in the interface's order; one tensor for a program with one output, else a tuple."""
        results = self._graph_module(*(getattr(self, name) for name in self._order), *inputs)
        return results[0] if len(results) == 1 else tuple(results)

    def train(self, mode: bool = True) -> TrainableProgram:
        """Switch dropout, and batch norm where it trains."""
        super().train(mode)
        for node, position in self._switches:
            node.args = (*node.args[:position], mode, *node.args[position + 1 :])
        self._graph_module.recompile()
        return self

    def source_state(self) -> dict[str, Tensor]:
        """Parameters and buffers by the source's names, for `with_parameters`."""
        return {self._sources[flat]: getattr(self, flat).detach().clone() for flat in self._order}


def trainable(program: Program, batch_norm: BatchNorm = "frozen") -> TrainableProgram:
    """An nn.Module that computes the program and supports `train()` and `eval()`. Raises ConfigError for another `batch_norm`."""
    if batch_norm not in ("frozen", "train"):
        raise ConfigError(f"batch_norm is {batch_norm!r}; known: frozen, train")
    return TrainableProgram(program, batch_norm)


def with_parameters(program: Program, state: Mapping[str, Tensor]) -> Program:
    """The program with other values for its stored tensors.

    Args:
        program: where shapes and dtypes come from.
        state: by source name; names that are left out keep their values.

    Raises:
        InternalError: a name is unknown, or a shape or dtype differs; all of them at once.
    """
    by_name = {name: placeholder for placeholder, name in program.tensor_names.items()}
    problems = [Problem(name, "tensor", "the program has none of that name") for name in state if name not in by_name]
    for name, value in state.items():
        old = program.tensors.get(by_name.get(name, ""))
        if old is not None and (old.shape != value.shape or old.dtype != value.dtype):
            problems.append(Problem(name, f"{value.dtype}{list(value.shape)}", f"expected {old.dtype}{list(old.shape)}"))
    if problems:
        raise InternalError("the parameters do not fit the program", problems)
    edit = Edit(program)
    for name, value in state.items():
        edit.set_tensor(edit.node(by_name[name]), value)
    return edit.done()


def _switchable(program: Program) -> Any:
    """A private copy of the graph whose training arguments all stand at their positions."""
    source = program.exported.graph_module
    graph = fx.Graph()
    graph.output(graph.graph_copy(program.graph, {}))
    for node in graph.nodes:
        if node.target in _TRAINING_ARGUMENT and len(node.args) <= _TRAINING_ARGUMENT[node.target]:
            raise InternalError(f"{node.name}: its training argument is not positional")
    return fx.GraphModule(source, graph)
