"""The only way to train a program: `trainable` makes an nn.Module of it, `with_parameters` writes the result back.

A module of torch.export refuses `.train()`: its batch norms and dropouts carry `training=False` as an argument. Here those arguments follow
the module's own flag, `training`, at every call: Lightning restores the flag after validation without calling `train()`. Bounds follow it
too: where one trains, the smooth form stands in for the hard one (`effc.ir.ops.bound.bound_in_training`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from effc.errors import ConfigError, InternalError, Problem
from effc.ir.edit import Edit, keyword_arguments
from effc.ir.ops.bound import BOUND, bound_in_training
from effc.ir.program import Program

__all__ = ["TrainableProgram", "trainable", "with_parameters"]

_aten = torch.ops.aten
_TRAINING_ARGUMENT = {_aten.batch_norm.default: 5, _aten.dropout.default: 2}
_MOMENTUM_ARGUMENT, _MOMENTUM = 6, 0.1
BatchNorm = Literal["frozen", "train"]


class TrainableProgram(nn.Module):
    """A program whose parameters train.

    Args:
        program: the program; it is not changed.
        batch_norm: `frozen` keeps the stored mean and variance and uses them also while training; `train` uses the batch's own and updates
            the stored ones. A batch norm whose momentum is 0, as exporters of inference graphs write it, gets torch's usual 0.1: with 0 the
            stored ones would stay those of other weights.
        dropout: False keeps dropout off in training mode.

    In training mode a bound (`effc::bound`) that requires a gradient computes its smooth form; in evaluation mode, and where its bounds are
    frozen (`requires_grad_(False)`), the op that is deployed. The module starts in evaluation mode.

    Parameters and buffers keep their source names with dots as `__`, as a flat module cannot have dots (and underscores at the end where
    that name is taken); `own_names` has them by source name, and `source_state` gives the values back.

    Attributes:
        own_names: source name -> the module's own.
    """

    def __init__(self, program: Program, batch_norm: BatchNorm, dropout: bool) -> None:
        super().__init__()
        self._graph_module = _switchable(program, batch_norm, dropout)
        self.own_names: dict[str, str] = {}
        for placeholder, name in program.tensor_names.items():
            flat = name.replace(".", "__")
            while hasattr(self, flat) or not flat:  # `a.b` beside `a__b`, or a tensor called `training`
                flat += "_"
            value = program.tensors[placeholder].detach().clone()
            if isinstance(program.tensors[placeholder], nn.Parameter):
                self.register_parameter(flat, nn.Parameter(value, requires_grad=value.is_floating_point()))
            else:
                self.register_buffer(flat, value)
            self.own_names[name] = flat
        self.eval()

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Inputs in the interface's order; one tensor for a program with one output, else a tuple."""
        results = self._graph_module(*(getattr(self, name) for name in self.own_names.values()), *inputs, self.training)
        return results[0] if len(results) == 1 else tuple(results)

    def source_state(self) -> dict[str, Tensor]:
        """Parameters and buffers by the source's names, for `with_parameters`."""
        return {name: getattr(self, flat).detach().clone() for name, flat in self.own_names.items()}


def trainable(program: Program, batch_norm: BatchNorm = "frozen", dropout: bool = True) -> TrainableProgram:
    """An nn.Module that computes the program and supports `train()` and `eval()`. Raises ConfigError for another `batch_norm`."""
    if batch_norm not in ("frozen", "train"):
        raise ConfigError(f"batch_norm is {batch_norm!r}; known: frozen, train")
    return TrainableProgram(program, batch_norm, dropout)


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


def _switchable(program: Program, batch_norm: BatchNorm, dropout: bool) -> Any:
    """A private copy of the graph with one more input, the last: whether it trains."""
    source = program.exported.graph_module
    graph = fx.Graph()
    graph.output(graph.graph_copy(program.graph, {}))
    last = [node for node in graph.nodes if node.op == "placeholder"][-1]
    with graph.inserting_after(last):
        training = graph.placeholder("training")
    flags: dict[Any, Any] = {_aten.dropout.default: training if dropout else False}
    if batch_norm == "train":
        flags[_aten.batch_norm.default] = training
    for node in graph.nodes:
        position = _TRAINING_ARGUMENT.get(node.target)
        if position is not None and len(node.args) <= position:
            raise InternalError(f"{node.name}: its training argument is not positional")
        if position is not None and node.target in flags:
            node.args = (*node.args[:position], flags[node.target], *node.args[position + 1 :])
        if node.target == _aten.batch_norm.default and batch_norm == "train" and node.args[_MOMENTUM_ARGUMENT] == 0:
            node.args = (*node.args[:_MOMENTUM_ARGUMENT], _MOMENTUM, *node.args[_MOMENTUM_ARGUMENT + 1 :])
        if node.target == BOUND.overload:
            node.kwargs = {**keyword_arguments(node), "training": training}
            node.target, node.args = bound_in_training, ()
    return fx.GraphModule(source, graph)
