"""A program as an ONNX model that onnxruntime runs (`--emit onnx`).

Standard operators are translated by torch's own exporter. An effc op becomes a call of a model-local function of the domain `effc`,
one function for each set of constant arguments and of tensors that are left out (`bound_clamp`, `bound_no_lower_zero`), whose body is the
op's `onnx` translation: viewers show the op as one box, and every runtime that inlines functions runs it. Names of inputs, outputs and
states are the user's.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.export import Dim

from effc.errors import Problem, UnsupportedModelError
from effc.ir import OPS, Interface, OpDef, Program, source_of
from effc.ir.ops import NAMESPACE

__all__ = ["OPSET", "export_onnx"]

OPSET = 20


def export_onnx(program: Program) -> bytes:
    """The program as a serialised ONNX ModelProto (opset 20), the same bytes for the same program.

    Raises:
        UnsupportedModelError: an operator has no ONNX translation; all of them are named.
    """
    functions = _Functions()
    model = _translate(program.exported, functions.translations(), program)
    _rename(model, program.interface)
    for name, (op, tensors, constants) in functions.needed.items():
        model.functions.append(_function(op, name, tensors, constants))
    if functions.needed and NAMESPACE not in (entry.domain for entry in model.opset_import):  # the exporter knows the ops that it saw
        entry = model.opset_import.add()
        entry.domain, entry.version = NAMESPACE, 1
    _strip_notes(model)
    model.producer_name, model.producer_version = "effc", ""
    return bytes(model.SerializeToString(deterministic=True))


def _translate(exported: torch.export.ExportedProgram, table: Mapping[Any, Any], program: Program | None) -> Any:
    """Run torch's exporter. Its own graph rewriting stays off: what effc decided is what the file shows."""
    from torch.onnx import OnnxExporterError

    with _quiet():
        try:
            converted = torch.onnx.export(
                exported, dynamo=True, verbose=False, optimize=False, opset_version=OPSET, custom_translation_table=dict(table)
            )
        except OnnxExporterError as error:
            missing = _untranslatable(program, str(error)) if program is not None else []
            raise UnsupportedModelError("the program has no ONNX form", missing) from error
    assert converted is not None  # dynamo=True returns a program
    from onnxscript.optimizer import fold_constants, remove_unused_nodes

    fold_constants(converted.model)
    remove_unused_nodes(converted.model)
    return converted.model_proto


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns about its own internals, and logs each operator of torchvision that it passes over where that is not installed."""
    logger = logging.getLogger("torch.onnx._internal.exporter")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _untranslatable(program: Program, message: str) -> list[Problem]:
    named = [node for node in program.nodes if f"%{node.name} " in message or str(node.target) in message]
    why = message.strip().splitlines()[0]
    return [Problem(source_of(node), str(node.target), "torch's ONNX exporter cannot translate it", why) for node in named]


class _Functions:
    """The model-local functions that a translation turned out to need, by name."""

    def __init__(self) -> None:
        self.needed: dict[str, tuple[OpDef, dict[str, Any], dict[str, Any]]] = {}

    def translations(self) -> dict[Any, Callable[..., Any]]:
        return {op.overload: self._caller(op) for op in OPS}

    def _caller(self, op: OpDef) -> Callable[..., Any]:
        """What the exporter calls for a node: emits one call of the function that fits the node's constants."""

        def call(*args: Any, **kwargs: Any) -> Any:
            names = [argument.name for argument in op.overload._schema.arguments]
            given = dict(zip(names, args, strict=False)) | kwargs
            tensors = {name: value for name, value in given.items() if _is_tensor(value)}
            constants = {name: value for name, value in given.items() if not _is_tensor(value)}
            name = _function_name(op, constants)
            self.needed.setdefault(name, (op, tensors, constants))
            return _emitter(name, len(tensors), len(op.overload._schema.returns))(*tensors.values())

        return call


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "dtype") and hasattr(value, "shape") and not isinstance(value, torch.Tensor)


def _function_name(op: OpDef, constants: Mapping[str, Any]) -> str:
    optional = {argument.name for argument in op.overload._schema.arguments if str(argument.type) == "Optional[Tensor]"}
    words = [f"no_{name}" if name in optional else str(value) for name, value in constants.items() if value is not None or name in optional]
    return re.sub(r"\W+", "_", "_".join([op.name, *words])).strip("_")


def _emitter(name: str, inputs: int, outputs: int) -> Callable[..., Any]:
    import onnx
    from onnxscript import values

    schema = onnx.defs.OpSchema
    kinds = list(onnx.defs.get_schema("Shape", OPSET).type_constraints[0].allowed_type_strs)  # all tensor types
    built = schema(
        name,
        NAMESPACE,
        1,
        inputs=[schema.FormalParameter(f"x{i}", f"T{i}") for i in range(inputs)],
        outputs=[schema.FormalParameter(f"y{i}", f"U{i}") for i in range(outputs)],
        type_constraints=[*((f"T{i}", kinds, "") for i in range(inputs)), *((f"U{i}", kinds, "") for i in range(outputs))],
    )
    emit: Callable[..., Any] = values.Op(values.Opset(NAMESPACE, 1), name, built)
    return emit


def _function(op: OpDef, name: str, tensors: Mapping[str, Any], constants: Mapping[str, Any]) -> Any:
    """The function's body: a program of this one op, translated, with its initialisers as Constant nodes."""
    import onnx

    body = _translate(_one_op(op, tensors, constants), {op.overload: op.onnx()}, None)
    constant_nodes = [
        onnx.helper.make_node("Constant", [], [initializer.name], value=initializer) for initializer in body.graph.initializer
    ]
    return onnx.helper.make_function(
        NAMESPACE,
        name,
        [value.name for value in body.graph.input],
        [value.name for value in body.graph.output],
        [*constant_nodes, *body.graph.node],
        [onnx.helper.make_opsetid("", OPSET)],
    )


def _one_op(op: OpDef, tensors: Mapping[str, Any], constants: Mapping[str, Any]) -> torch.export.ExportedProgram:
    class OneOp(torch.nn.Module):
        def forward(self, *inputs: torch.Tensor) -> Any:
            return op.overload(**dict(zip(tensors, inputs, strict=True)), **constants)

    def example(value: Any) -> torch.Tensor:
        shape = [size if isinstance(size, int) else 2 for size in value.shape]
        return torch.zeros(shape, dtype=_torch_dtype(value.dtype))

    # Every dimension that is symbolic in the program stays symbolic in the function.
    symbolic = tuple({i: Dim.DYNAMIC for i, size in enumerate(value.shape) if not isinstance(size, int)} for value in tensors.values())
    return torch.export.export(OneOp(), tuple(example(v) for v in tensors.values()), dynamic_shapes=(symbolic,))


def _torch_dtype(dtype: Any) -> torch.dtype:
    name = {"FLOAT": "float32", "DOUBLE": "float64", "FLOAT16": "float16"}.get(dtype.name, dtype.name.lower())
    found: torch.dtype = getattr(torch, name)
    return found


def _rename(model: Any, interface: Interface) -> None:
    """Give inputs and outputs the user's names, everywhere that they are used.

    A value may be several of them: the output of a streaming program is the new state, too, where it is a tensor that is kept. The first
    name is the value's; the others, which must be there as well, are copies of it.
    """
    from onnx import helper

    old = [value.name for value in (*model.graph.input, *model.graph.output)]
    new = [value.name for value in (*interface.inputs, *interface.outputs)]
    names: dict[str, str] = {}
    copies = [(before, name) for before, name in zip(old, new, strict=True) if names.setdefault(before, name) != name]
    taken = set(new) - set(old)
    for node in model.graph.node:
        for values in (node.input, node.output):
            for i, name in enumerate(values):
                values[i] = names.get(name, f"{name}_inner" if name in taken else name)
    for initializer in model.graph.initializer:
        initializer.name = f"{initializer.name}_inner" if initializer.name in taken else initializer.name
    for value, name in zip((*model.graph.input, *model.graph.output), new, strict=True):
        value.name = name
    model.graph.node.extend(helper.make_node("Identity", [names[before]], [name], name=f"copy_{name}") for before, name in copies)
    for values in (model.graph.input, model.graph.output):
        for value in values:
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_param:
                    dim.dim_param = "batch"


def _strip_notes(model: Any) -> None:
    """Drop what the exporter writes about this machine and this run: stack traces, paths, torch's internal names."""
    graphs = [model.graph, *model.functions]
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    for graph in graphs:
        for node in graph.node:
            del node.metadata_props[:]
            node.doc_string = ""
    for function in model.functions:
        del function.metadata_props[:]
        del function.value_info[:]
