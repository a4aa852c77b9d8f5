"""One door for every kind of source: which frontend reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from effc.errors import ConfigError, UsageError
from effc.frontends.onnx.limits import Limits
from effc.ir import Program

__all__ = ["load_program"]


def load_program(
    source: str | Path | torch.nn.Module | ExportedProgram,
    *,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    limits: Limits | None = None,
    example_inputs: Sequence[Any] | None = None,
    states: Mapping[str, str] | None = None,
    check_import: bool = True,
) -> Program:
    """A Program from a trained network. A symbolic batch is tried and proved (`program.interface.batch` says so, or why not).

    Args:
        source: path of an `.onnx` or `.pt2` file, an `nn.Module` (with `example_inputs`), or a `torch.export.ExportedProgram`.
        input_shapes: for ONNX files, sizes by input name where the file leaves more than the batch open.
        limits: bounds on untrusted files; the defaults of `Limits` where absent.
        example_inputs: for an nn.Module, the positional arguments of one call: tensors whose first dimension is the batch.
        states: for a step of a streaming program, the name of each input that is a state -> that of the output with its new value.
        check_import: whether an ONNX import is compared with onnxruntime (`provenance.checked` says how that went).

    Raises:
        UsageError: no such file, an unknown kind of source, missing examples or shapes, states that do not fit.
        UnsupportedModelError: parts of the model are beyond effc; all of them are listed.
        InputRejectedError: the file is broken or hostile; LimitError where it is over a limit.
        VerificationError: an ONNX import computes something else than onnxruntime.
    """
    limits = limits or Limits()
    from effc.frontends.states import with_states

    if isinstance(source, str | Path):
        program = _load_file(Path(source), input_shapes, limits, check_import)
        return with_states(program, states) if states else program
    if input_shapes:
        raise ConfigError("input shapes can only be given for ONNX files; a module takes them from its example inputs")
    from effc.frontends.torch import load_exported, load_module

    if isinstance(source, ExportedProgram):
        program = load_exported(source)
        return with_states(program, states) if states else program
    if isinstance(source, torch.nn.Module):
        return load_module(source, example_inputs, states)
    raise UsageError(f"a {type(source).__name__} is no model: give a path, an nn.Module with example_inputs, or an ExportedProgram")


def _load_file(path: Path, input_shapes: Mapping[str, Sequence[int]] | None, limits: Limits, check_import: bool) -> Program:
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        from effc.frontends.onnx.importing import load_onnx

        return load_onnx(path, input_shapes, limits, check_import=check_import)
    if suffix == ".pt2":
        from effc.frontends.torch import load_pt2

        if input_shapes:
            raise ConfigError("input shapes can only be given for ONNX files; a .pt2 file holds its own")
        return load_pt2(path, limits)
    if not path.exists():
        raise UsageError(f"there is no model file {str(path)!r}")
    pickled = suffix in (".pt", ".pth")
    hint = "; a pickled checkpoint can run code when it is read: export the model with torch.export.save" if pickled else ""
    raise UsageError(f"{path.name}: effc reads .onnx and .pt2 files{hint}")
