"""A program as text: one line per value, in execution order, with shapes and the user's names.

    program digits.onnx (onnx, 3f2a9c1d)
    batch symbolic

    input x: float32[batch, 1, 8, 8]

    parameter conv1.weight: float32[16, 1, 3, 3]

    %conv2d = conv2d(%x, conv1.weight, conv1.bias, padding=[1, 1])           float32[batch, 16, 8, 8]  # /conv1/Conv
    %relu = relu(%conv2d)                                                    float32[batch, 16, 8, 8]  # /relu1/Relu [0, 4.2] dense 38 %

    return output = %linear

The text is for people, for `--dump-ir` and for golden tests: the same program prints the same text on every machine, so hashes of
weights, memory addresses and torch's own naming of symbols stay out of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from effc.ir.interface import value_of
from effc.ir.program import Program, source_of

__all__ = ["format_program"]

_COLUMN = 64


def format_program(program: Program) -> str:
    """The whole program as text, ending in a newline."""
    return "\n".join(_lines(program)) + "\n"


def _lines(program: Program) -> Iterator[str]:
    origin = program.provenance
    yield f"program {origin.source} ({origin.format}, {origin.sha256[:8]})"
    batch = program.interface.batch
    yield "batch symbolic" if batch.symbolic else f"batch fixed: {batch.reason}"
    yield from (f"pass {spec}" for spec in origin.passes)
    yield ""
    states = {state.input for state in program.interface.states}
    yield from (f"{'state' if value.name in states else 'input'} {value}" for value in program.interface.inputs)
    yield ""
    for name, target in program.tensor_names.items():
        kind = "parameter" if isinstance(program.tensors[name], torch.nn.Parameter) else "buffer"
        yield f"{kind} {value_of(target, program.tensors[name])}"
    yield ""
    names = {node: f"%{user}" for user, node in program.input_nodes.items()}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            names.setdefault(node, program.tensor_names.get(node.name, f"%{node.name}"))
        elif node.op == "call_function":
            names[node] = f"%{node.name}"
            yield _line(program, node, names)
    yield ""
    results = program.graph.output_node().args[0]
    for value, result in zip(program.interface.outputs, results, strict=True):  # type: ignore[arg-type]
        yield f"return {value.name} = {_text(result, names)}"


def _line(program: Program, node: fx.Node, names: dict[fx.Node, str]) -> str:
    call = f"{names[node]} = {_operator(node)}({', '.join(_arguments(node, names))})"
    line = f"{call:<{_COLUMN}} {_type(node.meta.get('val'))}"
    remarks = [source_of(node)] if source_of(node) != node.name else []
    fact = program.facts.values.get(node.name)
    if fact is not None:
        remarks.append(f"[{fact.minimum:.6g}, {fact.maximum:.6g}] dense {fact.density:.0%}")
    return f"{line}  # {' '.join(remarks)}" if remarks else line


def _operator(node: fx.Node) -> str:
    if isinstance(node.target, torch._ops.OpOverload):
        namespace, name = str(node.target.name()).split("::")  # type: ignore[no-untyped-call]
        return name if namespace == "aten" else f"{namespace}.{name}"
    return getattr(node.target, "__name__", str(node.target))


def _arguments(node: fx.Node, names: dict[fx.Node, str]) -> Iterator[str]:
    """Positional arguments as they stand; from the second non-tensor one on, with their schema names."""
    schema = node.target._schema.arguments if isinstance(node.target, torch._ops.OpOverload) else ()
    for position, argument in enumerate(node.args):
        text = _text(argument, names)
        plain = position < len(schema) and not isinstance(argument, fx.Node) and position > 0
        yield f"{schema[position].name}={text}" if plain else text
    yield from (f"{key}={_text(value, names)}" for key, value in node.kwargs.items())


def _text(argument: Any, names: dict[fx.Node, str]) -> str:
    if isinstance(argument, fx.Node):
        return names.get(argument, f"%{argument.name}")
    if isinstance(argument, (list, tuple)):
        return f"[{', '.join(_text(item, names) for item in argument)}]"
    if isinstance(argument, torch.dtype):
        return str(argument).removeprefix("torch.")
    return repr(argument)


def _type(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"({', '.join(map(_type, value))})"
    if value is None:
        return "?"
    shaped = value_of("", value)
    return f"{shaped.dtype}[{', '.join(map(str, shaped.shape))}]" if isinstance(value, torch.Tensor) else shaped.dtype
