"""An ONNX file as a Program: load, find every problem, trace, prove the batch, compare with another reader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from effc.errors import UnsupportedModelError
from effc.frontends.exporting import as_program
from effc.frontends.onnx.batching import export_batched
from effc.frontends.onnx.checking import find_problems
from effc.frontends.onnx.import_check import compare_with_onnxruntime
from effc.frontends.onnx.integer_fusion import fuse_integers
from effc.frontends.onnx.interpreter import OnnxModule
from effc.frontends.onnx.limits import Limits
from effc.frontends.onnx.loader import load_model
from effc.frontends.onnx.signature import input_signature
from effc.ir import Program, Provenance

__all__ = ["load_onnx"]


def load_onnx(path: str | Path, input_shapes: Mapping[str, Sequence[int]] | None, limits: Limits, *, check_import: bool = True) -> Program:
    """Import an ONNX file. Errors as in `loader.load_model` and `signature.input_signature`, and

    Raises:
        UnsupportedModelError: nodes that effc cannot take, all of them.
        VerificationError: with `check_import`, the program computes something else than onnxruntime.
    """
    model = load_model(path, limits)
    inputs = input_signature(model.proto.graph, input_shapes)
    module = OnnxModule(model, limits).eval()
    problems = find_problems(module, inputs, model)
    if problems:
        count = f"{len(problems)} node{'s' if len(problems) > 1 else ''}"
        raise UnsupportedModelError(f"{model.name} has {count} that effc cannot take", problems)
    exported, batch = export_batched(module, inputs)
    provenance = Provenance(model.name, "onnx", model.sha256)
    program = as_program(exported, provenance, batch, module.input_names, module.output_names)
    program = fuse_integers(program)
    if not check_import:
        return program
    checked = compare_with_onnxruntime(program, model, inputs)
    return replace(program, provenance=replace(provenance, checked=checked))
