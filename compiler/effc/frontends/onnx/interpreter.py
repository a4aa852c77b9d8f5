"""An ONNX graph as an `nn.Module` that `torch.export` can trace.

Every node runs its operator's torch function (`effc.frontends.onnx.operators`). A value is a torch tensor, or a numpy array where it is
known while tracing: shapes, integers and what is computed from them, so that shape arithmetic folds away (`folding`). Floating-point
initialisers are parameters, those of batch norm's statistics buffers, both under their source names (`naming`); the inputs that an
operator must know while tracing (`Operator.constants`) and single numbers stay numpy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch.fx.traceback import annotate

from effc.errors import EffcError, Problem
from effc.frontends.onnx.folding import fold
from effc.frontends.onnx.limits import Budget, Limits
from effc.frontends.onnx.loader import LoadedModel
from effc.frontends.onnx.naming import module_paths
from effc.frontends.onnx.operators import find
from effc.frontends.onnx.operators.base import Node, Operator, Unsupported, Value
from effc.frontends.onnx.operators.values import tensor
from effc.frontends.onnx.stored import attribute_value, initial_values, is_parameter
from effc.frontends.onnx.symbolic import settle
from effc.frontends.onnx.walking import all_nodes, node_name

__all__ = ["Adapter", "OnnxModule", "graph_inputs", "unknown_operator"]

_UNKNOWN = Operator("unknown", lambda node, *inputs: None)  # stored inputs of what has no row (If, unsupported nodes) are parameters


class Adapter(Protocol):
    """What a symbolic batch changes in a node's inputs (see `batching`)."""

    def __call__(self, node: Node, inputs: list[Value]) -> list[Value]: ...


def graph_inputs(graph: Any) -> list[Any]:
    """The inputs that a user gives: those without an initialiser."""
    given = {tensor.name for tensor in graph.initializer} | {sparse.values.name for sparse in graph.sparse_initializer}
    return [value for value in graph.input if value.name not in given]


@dataclass
class _Trail:
    """Where a trace is, for the message of one that fails."""

    node: str = ""


@dataclass
class _Run:
    """One pass over the graph: its values by name, and what was refused on the way (only where problems are collected)."""

    values: dict[str, Value]
    budget: Budget
    problems: list[Problem] | None
    refused: set[str] = field(default_factory=set)


class OnnxModule(torch.nn.Module):
    """The main graph of a vetted model.

    Args:
        model: as `loader.load_model` returns it.
        limits: applied to every value, folded or traced.
        adapt: changes a node's inputs where the batch is symbolic; None leaves the graph as it is.
    """

    def __init__(self, model: LoadedModel, limits: Limits, adapt: Adapter | None = None) -> None:
        super().__init__()
        self._graph = model.proto.graph
        self._opsets = model.opsets
        self._limits = limits
        self.adapt = adapt
        self.trail = _Trail()
        self._known: dict[str, np.ndarray[Any, Any]] = initial_values(self._graph)
        self._paths: dict[str, str] = {}
        self._register()
        self.input_names = [value.name for value in graph_inputs(self._graph)]
        self.output_names = [value.name for value in self._graph.output]

    def _opset(self, domain: str) -> int:
        return self._opsets.get("" if domain == "ai.onnx" else domain, 1)

    # ---- parameters ----------------------------------------------------------------------------------------------------------

    def _register(self) -> None:
        """Make parameters and buffers of the floating-point values that some node takes as data."""
        constants = {output for node in all_nodes(self._graph) if node.op_type == "Constant" for output in node.output}
        uses: dict[str, bool] = {}  # name -> whether it must be a buffer
        for node in all_nodes(self._graph):
            row = find(node.domain, node.op_type, self._opset(node.domain)) or _UNKNOWN
            for position, name in enumerate(node.input):
                if name in self._known and row.quantised and self._known[name].dtype.isbuiltin == 1:
                    uses[name] = True
                elif name in self._known and is_parameter(self._known[name]) and position not in row.constants:
                    uses[name] = uses.get(name, name in constants) or position in row.buffers
        self._paths = module_paths(uses)
        for name, is_buffer in uses.items():
            self._add(self._paths[name], tensor(self._known[name]), is_buffer)

    def _add(self, path: str, value: torch.Tensor, is_buffer: bool) -> None:
        *steps, last = path.split(".")
        owner: torch.nn.Module = self
        for step in steps:
            if step not in owner._modules:
                owner.add_module(step, torch.nn.Module())
            owner = owner._modules[step]  # type: ignore[assignment]
        if is_buffer:
            owner.register_buffer(last, value)
        else:
            owner.register_parameter(last, torch.nn.Parameter(value))

    def _held(self, name: str) -> torch.Tensor:
        *steps, last = self._paths[name].split(".")
        owner: torch.nn.Module = self
        for step in steps:
            owner = getattr(owner, step)
        held: torch.Tensor = getattr(owner, last)
        return held

    # ---- running -------------------------------------------------------------------------------------------------------------

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The graph's outputs, in its order. Raises `Unsupported` at the first node that is not covered."""
        run = _Run(dict(zip(self.input_names, inputs, strict=True)), Budget(self._limits), None)
        self._run_nodes(self._graph, run)
        results = [tensor(self._read(run, _UNKNOWN, 0, name)) for name in self.output_names]
        taken: list[torch.Tensor] = [*inputs, *self.parameters(), *self.buffers()]
        for position, result in enumerate(results):  # an output of its own, also where it is an input or another output
            if any(result is other for other in taken):
                results[position] = result.clone()
            taken.append(result)
        return tuple(results)

    def problems(self, *inputs: torch.Tensor, shapes: Mapping[str, Any] | None = None) -> list[Problem]:
        """Everything that would keep `forward` from running on such inputs.

        A node that is refused does not end the search: where `shapes` knows its outputs ((shape, torch dtype) by value name) stand-ins go
        on, elsewhere the nodes that need them are passed over in silence.
        """
        run = _Run(dict(zip(self.input_names, inputs, strict=True)), Budget(self._limits), [])
        self._run_nodes(self._graph, run, shapes or {})
        assert run.problems is not None
        return run.problems

    def _run_nodes(self, graph: Any, run: _Run, shapes: Mapping[str, Any] | None = None) -> None:
        for position, proto in enumerate(graph.node):
            node = self.describe(proto, position)
            if any(name in run.refused for name in proto.input):
                if run.problems is not None and (problem := unknown_operator(node)) is not None:
                    run.problems.append(problem)
                run.refused.update(name for name in proto.output if name)
                continue
            self.trail.node = f"{node.name} ({node.op})"
            try:
                with annotate({"effc": node.name}):
                    self._run_node(node, proto, run)
            except EffcError:
                raise
            except Exception as error:  # in a trace the error goes on; in a search for problems it is the finding
                if run.problems is None:
                    raise
                run.problems.append(_problem(node, error))
                self._stand_in(proto, run, shapes or {})

    def _stand_in(self, proto: Any, run: _Run, shapes: Mapping[str, Any]) -> None:
        for name in proto.output:
            if name in shapes:
                shape, dtype = shapes[name]
                run.values[name] = torch.zeros(shape, dtype=dtype)
            elif name:
                run.refused.add(name)

    def describe(self, proto: Any, position: int) -> Node:
        """A NodeProto as operator functions see it."""
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        attributes = {attribute.name: attribute_value(attribute) for attribute in proto.attribute}
        return Node(node_name(proto, position), proto.op_type, domain, self._opset(domain), attributes, list(proto.output))

    def _read(self, run: _Run, row: Operator, position: int, name: str) -> Value:
        if name in run.values:
            return run.values[name]
        is_data = row.quantised or (name in self._known and is_parameter(self._known[name]))
        if name in self._paths and is_data and position not in row.constants:
            return self._held(name)
        return self._known[name]

    def _run_node(self, node: Node, proto: Any, run: _Run) -> None:
        if node.op == "Constant" and node.outputs[0] in self._known:
            return
        row = find(node.domain, node.op, node.opset) or _UNKNOWN
        inputs = [self._read(run, row, i, name) if name else None for i, name in enumerate(proto.input)]
        results = self._evaluate(node, inputs, run)
        for name, result in zip(node.outputs, results, strict=False):
            if not name:
                continue
            if isinstance(result, torch.Tensor) and all(isinstance(size, int) for size in result.shape):
                self._limits.check_shape(result.shape, f"the result of {node.name} ({node.op}), of shape {list(result.shape)},")
            run.values[name] = result
        missing = [name for name in node.outputs[len(results) :] if name]
        if missing:
            raise Unsupported(f"its outputs {', '.join(missing)} are not computed")

    def _evaluate(self, node: Node, inputs: list[Value], run: _Run) -> Sequence[Value]:
        if self.adapt is not None:
            inputs = self.adapt(node, inputs)
        if node.op == "Shape" and isinstance(inputs[0], torch.Tensor):
            return (settle(list(inputs[0].shape))[node.get("start", 0) : node.get("end", inputs[0].ndim)],)
        if node.op == "If":
            return self._branch(node, inputs, run)
        known = [value for value in inputs if value is None or isinstance(value, np.ndarray)]
        operator = find(node.domain, node.op, node.opset)
        if len(known) == len(inputs) and not (operator is not None and operator.stays):
            folded = fold(node, known, run.budget)
            if folded is not None:
                return folded if isinstance(folded, tuple) else (folded,)
        if operator is None:
            raise Unsupported(*no_operator(node))
        result = operator.function(node, *inputs)
        return tuple(result) if isinstance(result, tuple | list) else (result,)

    def _branch(self, node: Node, inputs: list[Value], run: _Run) -> Sequence[Value]:
        condition = inputs[0]
        if not isinstance(condition, np.ndarray):
            raise Unsupported("its condition is computed from data", "export the branch that is needed, or use Where")
        graph = node.get("then_branch" if bool(condition.reshape(-1)[0]) else "else_branch")
        self._run_nodes(graph, run)
        return [self._read(run, _UNKNOWN, 0, value.name) for value in graph.output]


def no_operator(node: Node) -> tuple[str, str]:
    """Why a node without a table entry is refused, and the nearest thing that works."""
    if node.domain not in ("", "ai.onnx"):
        return f"domain {node.domain!r} is not known to effc", "export with standard ONNX operators, or as model-local functions"
    for other in range(node.opset + 1, node.opset + 30):
        if find(node.domain, node.op, other) is not None:
            return f"its form of opset {node.opset} is not covered", f"convert the model to opset {other} with onnx.version_converter"
    return "effc has no such operator", "express it by other standard operators, or cut it off the model"


def unknown_operator(node: Node) -> Problem | None:
    """The problem of a node whose operator is in no table; None for one that is, or that the interpreter handles itself."""
    if node.op in ("Constant", "If") or find(node.domain, node.op, node.opset) is not None:
        return None
    return Problem(node.name, node.op, *no_operator(node))


def _problem(node: Node, error: Exception) -> Problem:
    if isinstance(error, Unsupported):
        return Problem(node.name, node.op, error.why, error.hint)
    text = str(error).strip().splitlines()
    return Problem(node.name, node.op, f"refuses its inputs: {text[0] if text else type(error).__name__}")
