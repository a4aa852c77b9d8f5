"""A program's graph with nothing stored in it: every weight is an argument. Code generators take it in this form."""

from __future__ import annotations

import copy

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec

from effc.ir.program import Program

__all__ = ["weights_as_inputs"]

_STORED = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)


def weights_as_inputs(program: Program) -> tuple[ExportedProgram, tuple[str, ...]]:
    """The same graph with parameters, buffers and constants declared as plain inputs, and their names in order."""
    exported = program.exported
    signature = copy.copy(exported.graph_signature)
    stored = tuple(spec.arg.name for spec in signature.input_specs if spec.kind in _STORED)
    signature.input_specs = [
        InputSpec(kind=InputKind.USER_INPUT, arg=spec.arg, target=None) if spec.kind in _STORED else spec for spec in signature.input_specs
    ]
    bare = ExportedProgram(
        root=exported.graph_module,
        graph=exported.graph,
        graph_signature=signature,
        state_dict={},
        range_constraints={},
        module_call_graph=exported.module_call_graph,
        example_inputs=None,
        constants={name: value for name, value in exported.constants.items() if not isinstance(value, torch.Tensor)},
    )
    return bare, stored
