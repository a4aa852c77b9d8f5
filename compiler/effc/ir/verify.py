"""Is a program well-formed? `check` collects every violation, `verify` raises one error that lists them.

It runs before the first and after every pass. What it guards: structure (fx lint, signature against placeholders), no unknown or
mutating operator, shapes and dtypes that agree with the operators' own shape rules, tensors that exist and fit, and states that have
exactly one writer.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.export.graph_signature import InputKind

from effc.errors import InternalError, Problem
from effc.ir.edit import without_guards
from effc.ir.ops import NAMESPACE
from effc.ir.program import Program, source_of

__all__ = ["check", "is_known", "verify"]

_NAMESPACES = ("aten", NAMESPACE)
_PLAIN_FUNCTIONS = frozenset(
    getattr(operator, name)
    for name in (
        *("getitem", "add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "pow"),
        *("eq", "ne", "lt", "le", "gt", "ge", "and_", "or_"),
    )
) | {torch.sym_max, torch.sym_min, torch.sym_not, torch.sym_int, torch.sym_float, torch.sym_ite}


def check(program: Program) -> list[Problem]:
    """Everything that is wrong with a program; an empty list for a well-formed one."""
    problems = list(_structure(program))
    if problems:  # the rest would only repeat it
        return problems
    return [*_operators(program), *_tensors(program), *_shapes(program), *_states(program)]


def verify(program: Program, after: str = "import") -> None:
    """Raise InternalError with every violation; `after` names the step that made the program."""
    problems = check(program)
    if problems:
        raise InternalError(f"the program is malformed after {after}", problems)


def is_known(target: object) -> bool:
    """Whether a program may call this: an ATen or effc operator, or arithmetic on sizes."""
    if isinstance(target, torch._ops.OpOverload):
        return target.namespace in _NAMESPACES
    return target in _PLAIN_FUNCTIONS


def _structure(program: Program) -> Iterator[Problem]:
    try:
        program.graph.lint()
    except Exception as error:  # noqa: BLE001 - lint raises several kinds; each is the finding itself
        yield Problem("graph", "lint", str(error))
        return
    placeholders = [node.name for node in program.graph.nodes if node.op == "placeholder"]
    specs = [spec.arg.name for spec in program.exported.graph_signature.input_specs]
    if placeholders != specs:
        yield Problem("signature", "inputs", f"placeholders {placeholders} differ from the signature's {specs}")
    results = program.graph.output_node().args[0]
    outputs = [spec.arg.name for spec in program.exported.graph_signature.output_specs if hasattr(spec.arg, "name")]
    nodes = [node.name for node in results if isinstance(node, fx.Node)]  # type: ignore[union-attr]
    if outputs != nodes:
        yield Problem("signature", "outputs", f"results {nodes} differ from the signature's {outputs}")
    if len(results) != len(program.interface.outputs):  # type: ignore[arg-type]
        yield Problem("interface", "outputs", f"{len(results)} results for {len(program.interface.outputs)} names")  # type: ignore[arg-type]
    users = sum(spec.kind == InputKind.USER_INPUT for spec in program.exported.graph_signature.input_specs)
    if users != len(program.interface.inputs):
        yield Problem("interface", "inputs", f"{users} placeholders for {len(program.interface.inputs)} names")


def _operators(program: Program) -> Iterator[Problem]:
    for node in program.graph.nodes:
        if node.op not in ("placeholder", "call_function", "output"):
            yield Problem(source_of(node), node.op, "only placeholders, calls and one output may stand in a program")
        elif node.op == "call_function" and not is_known(node.target):
            yield Problem(source_of(node), str(node.target), "is neither an ATen nor an effc operator")
        elif isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable:
            yield Problem(source_of(node), str(node.target), "changes its input in place, which lowering would drop without a word")


def _tensors(program: Program) -> Iterator[Problem]:
    for node in program.graph.nodes:
        if node.op != "placeholder" or node.name not in program.tensor_names:
            continue
        tensor, fake = program.tensors.get(node.name), node.meta.get("val")
        if tensor is None:
            yield Problem(program.tensor_names[node.name], "parameter", "has no data")
        elif not isinstance(fake, Tensor) or tuple(tensor.shape) != tuple(fake.shape) or tensor.dtype != fake.dtype:
            why = f"data is {tensor.dtype}{list(tensor.shape)}, the graph says {fake}"
            yield Problem(program.tensor_names[node.name], "parameter", why)


def _shapes(program: Program) -> Iterator[Problem]:
    for node in program.nodes:
        recorded = node.meta.get("val")
        if recorded is None:
            yield Problem(source_of(node), str(node.target), "has no shape recorded")
            continue
        if not isinstance(node.target, torch._ops.OpOverload) or not isinstance(recorded, torch._subclasses.FakeTensor):
            continue
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda argument: argument.meta["val"])
        try:
            with without_guards(recorded.fake_mode), torch.no_grad():
                actual = node.target(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - whatever the shape rule raises is the finding
            yield Problem(source_of(node), str(node.target), f"its shape rule refuses its inputs: {error}")
            continue
        if actual.dtype != recorded.dtype or not _agree(actual.shape, recorded.shape):
            why = f"gives {actual.dtype}{list(actual.shape)}, recorded {recorded.dtype}{list(recorded.shape)}"
            yield Problem(source_of(node), str(node.target), why)


def _agree(actual: Sequence[Any], recorded: Sequence[Any]) -> bool:
    """Same rank and sizes; a symbolic size may stand for any other (a fresh symbol is made at each data-dependent call)."""
    pairs = zip(actual, recorded, strict=False)
    return len(actual) == len(recorded) and all(a == b for a, b in pairs if isinstance(a, int) and isinstance(b, int))


def _states(program: Program) -> Iterator[Problem]:
    inputs = {value.name: value for value in program.interface.inputs}
    outputs = {value.name: value for value in program.interface.outputs}
    writers = [state.output for state in program.interface.states]
    for state in program.interface.states:
        if state.input not in inputs or state.output not in outputs:
            yield Problem(state.input, "state", f"dangles: no input {state.input!r} or no output {state.output!r}")
        elif (inputs[state.input].shape, inputs[state.input].dtype) != (outputs[state.output].shape, outputs[state.output].dtype):
            yield Problem(state.input, "state", f"is {inputs[state.input]} but its new value is {outputs[state.output]}")
        if writers.count(state.output) > 1:
            yield Problem(state.input, "state", f"its writer {state.output!r} writes another state too")
