"""Programs from PyTorch: an `nn.Module` with example inputs, an exported program, a `.pt2` file.

A module is traced with a symbolic batch first, which is proved as for ONNX files (`proof`). An exported program is taken as it is: its
batch is symbolic where it was exported so. Modules are read, never changed: training mode is put back, parameters are shared.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind

from effc.errors import EffcError, Problem, UnsupportedModelError, UsageError
from effc.frontends.exporting import as_program, trace
from effc.frontends.onnx.limits import Limits
from effc.frontends.output_names import flatten_outputs, output_names
from effc.frontends.proof import unproved
from effc.frontends.states import with_states
from effc.ir import BATCH, Batch, Program, Provenance
from effc.ir.edit import copy_graph
from effc.ir.storage import load_program_bytes, read_archive, save_program
from effc.ir.torch_calls import copy_call_graph

__all__ = ["load_exported", "load_module", "load_pt2"]

_EXAMPLE = 3  # a batch of 1 would be specialised by torch


# ---- nn.Module -----------------------------------------------------------------------------------------------------------------


def load_module(module: torch.nn.Module, example_inputs: Sequence[Any] | None, states: Mapping[str, str] | None = None) -> Program:
    """Trace a module in evaluation mode.

    Args:
        module: any module that torch.export can trace.
        example_inputs: the positional arguments of one call, all tensors.
        states: for a functional step `(inputs..., states...) -> (outputs..., new states...)`, the name of each state's argument -> that of
            the output with its new value (see `output_names`); see `frontends.states`.

    Raises:
        UsageError: no example inputs, or such that the module itself refuses them; states that it does not have.
        UnsupportedModelError: torch.export cannot trace it, or it changes state of its own.
    """
    examples = _examples(example_inputs)
    modes = {part: part.training for part in module.modules()}
    buffers = {name: value.clone() for name, value in module.named_buffers()}
    module.eval()
    try:
        _try(module, examples)
        exported, batch = _export(module, examples)
    finally:
        for part, mode in modes.items():
            part.training = mode
        with torch.no_grad():
            for name, value in module.named_buffers():  # a module that counts its calls was called
                value.copy_(buffers[name])
    provenance = Provenance(type(module).__name__, "torch", "")
    names = output_names(exported)
    program = as_program(flatten_outputs(exported), provenance, batch, output_names=names)
    return _hashed(with_states(program, states) if states else program)


def _examples(given: Sequence[Any] | None) -> list[Tensor]:
    if given is None:
        raise UsageError("an nn.Module needs example_inputs: the positional arguments of one call, e.g. (torch.randn(1, 3, 224, 224),)")
    examples = [given] if isinstance(given, Tensor) else list(given)
    wrong = [
        Problem(f"argument {position}", type(value).__name__, "is no tensor", "wrap the module so that forward takes tensors only")
        for position, value in enumerate(examples)
        if not isinstance(value, Tensor)
    ]
    if wrong or not examples:
        raise UsageError("example_inputs must be tensors, one per positional argument of forward", wrong)
    return [value.detach() for value in examples]


def _try(module: torch.nn.Module, examples: Sequence[Tensor]) -> None:
    """The module must run on its own examples before anything is said about effc."""
    try:
        with torch.no_grad():
            module(*(value.clone() for value in examples))
    except Exception as error:
        raise UsageError(f"the module itself fails on the example inputs: {_brief(error)}") from error


def _export(module: torch.nn.Module, examples: Sequence[Tensor]) -> tuple[ExportedProgram, Batch]:
    """With a symbolic batch where it can be proved, else with that of the examples and the reason."""
    batched = [bool(value.ndim) and value.shape[0] == examples[0].shape[:1].numel() for value in examples] if examples[0].ndim else []
    reason = "" if any(batched) else "the first example input has no leading dimension that could be a batch"
    if any(batched):
        try:
            exported = trace(module, tuple(_at_batch(examples, batched, _EXAMPLE, _EXAMPLE)), _dynamic(module, batched))
        except EffcError:
            raise
        except Exception as error:  # noqa: BLE001 - the tracer raises many kinds; each is a reason why the batch stays fixed
            reason = _brief(error)
        else:
            output_names(exported)  # results that are no tensors are refused before anything is run
            own = int(examples[0].shape[0])
            reason = unproved(exported, lambda batch, seed: _at_batch(examples, batched, batch, seed), batched, module, own_batch=own)
            if not reason:
                return exported, Batch(True)
    try:
        return trace(module, tuple(examples)), Batch(False, reason)
    except Exception as error:
        hint = "rewrite data-dependent control flow with torch.where, and loops over tensors with fixed counts"
        problem = Problem(type(module).__name__, "torch.export", _brief(error), hint)
        raise UnsupportedModelError("torch.export cannot trace the module", [problem]) from error


def _dynamic(module: torch.nn.Module, batched: Sequence[bool]) -> tuple[Any, ...]:
    """The batch dimension of each argument in the form that torch.export wants: those of `*args` as one nested tuple."""
    dim = Dim(BATCH, min=1)
    specs = [{0: dim} if carries else None for carries in batched]
    kinds = [parameter.kind for parameter in inspect.signature(module.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        return tuple(specs)
    named = kinds.index(inspect.Parameter.VAR_POSITIONAL)
    return (*specs[:named], tuple(specs[named:]))


def _at_batch(examples: Sequence[Tensor], batched: Sequence[bool], batch: int, seed: int) -> list[Tensor]:
    """Seeded inputs like the examples at another batch: normal floats; for integers, values that the example has (they may be indices)."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for value, carries in zip(examples, batched, strict=True):
        shape = (batch, *value.shape[1:]) if carries else tuple(value.shape)
        if value.dtype.is_floating_point:
            made.append(torch.randn(shape, generator=generator).to(value.dtype))
        else:
            flat = value.reshape(-1)
            chosen = torch.randint(0, max(1, flat.numel()), shape, generator=generator)
            made.append(flat[chosen] if flat.numel() else torch.zeros(shape, dtype=value.dtype))
    return made


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:240] or type(error).__name__


# ---- exported programs ---------------------------------------------------------------------------------------------------------


def load_exported(exported: ExportedProgram, provenance: Provenance | None = None) -> Program:
    """Wrap an exported program (a copy of its graph; tensors are shared).

    Raises:
        UnsupportedModelError: sizes other than one leading batch are symbolic, or it changes state of its own.
    """
    fakes, names = _user_fakes(exported), output_names(exported)
    batch = _batch_of(exported, fakes)
    given = provenance or Provenance(type(exported).__name__, "torch", "")
    program = as_program(flatten_outputs(_copy(exported)), given, batch, output_names=names)
    return program if provenance is not None else _hashed(program)


def load_pt2(path: Path, limits: Limits) -> Program:
    """Vet and read a `.pt2` file; one that effc wrote comes back with its interface, facts and provenance.

    Raises:
        UsageError: there is no such file.
        InputRejectedError: broken or doctored; refused before torch loads it. LimitError: over a limit.
        UnsupportedModelError: as for `load_exported`.
    """
    try:
        limits.check("model_bytes", path.stat().st_size, f"the model file {path.name}")
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise UsageError(f"there is no model file {str(path)!r}") from error
    except OSError as error:
        raise UsageError(f"the model file {str(path)!r} cannot be read: {error.strerror}") from error
    exported, extra = read_archive(data, path.name, limits.model_bytes, limits.tensor_elements)
    limits.check("nodes", len(exported.graph.nodes), "operators of the model")
    if extra is not None:
        return load_program_bytes(data, name=path.name, max_bytes=limits.model_bytes, max_elements=limits.tensor_elements)
    return load_exported(exported, Provenance(path.name, "pt2", hashlib.sha256(data).hexdigest()))


def _user_fakes(exported: ExportedProgram) -> dict[str, Any]:
    kinds = {spec.arg.name: spec.kind for spec in exported.graph_signature.input_specs}
    users = [node for node in exported.graph.nodes if node.op == "placeholder" and kinds[node.name] == InputKind.USER_INPUT]
    return {node.name: node.meta["val"] for node in users}


def _batch_of(exported: ExportedProgram, fakes: dict[str, Any]) -> Batch:
    """Whether the leading dimension is symbolic and proved; refuses every other symbolic size."""
    problems = []
    symbols: set[str] = set()
    for name, fake in fakes.items():
        if not isinstance(fake, Tensor):
            problems.append(Problem(name, type(fake).__name__, "is no tensor", "export with tensor arguments only"))
            continue
        if any(not isinstance(size, int) for size in fake.shape[1:]):
            problems.append(Problem(name, f"shape {[str(size) for size in fake.shape]}", "has symbolic sizes besides the leading one"))
        symbols |= {str(size) for size in fake.shape[:1] if not isinstance(size, int)}
    if len(symbols) > 1:
        problems.append(Problem("inputs", f"sizes {sorted(symbols)}", "there is more than one symbolic batch", "give them one Dim"))
    if problems:
        raise UnsupportedModelError("only a batch may be symbolic; export with the other sizes fixed", problems)
    if not symbols:
        return Batch(False, "the program was exported with a fixed batch; give its leading dimension a torch.export.Dim")
    carriers = [bool(fake.ndim) and not isinstance(fake.shape[0], int) for fake in fakes.values()]
    examples = [torch.zeros([int(s) if isinstance(s, int) else 1 for s in fake.shape], dtype=fake.dtype) for fake in fakes.values()]
    try:
        why = unproved(exported, lambda batch, seed: _at_batch(examples, carriers, batch, seed), carriers, None, own_batch=1)
    except Exception as error:  # noqa: BLE001 - a guard or an operator that refuses some batch sizes
        why = _brief(error)
    if why:
        hint = "export it with a fixed batch, or give the nn.Module with example_inputs"
        raise UnsupportedModelError("the symbolic batch is not one of independent samples", [Problem("batch", BATCH, why, hint)])
    return Batch(True)


def _copy(exported: ExportedProgram) -> ExportedProgram:
    """The same program with a graph of its own."""
    module = fx.GraphModule(exported.graph_module, copy_graph(exported.graph))
    return ExportedProgram(
        root=module,
        graph=module.graph,
        graph_signature=copy.deepcopy(exported.graph_signature),
        state_dict=dict(exported.state_dict),
        range_constraints=dict(exported.range_constraints),
        module_call_graph=copy_call_graph(exported),
        example_inputs=None,
        constants=dict(exported.constants),
        verifiers=[exported.verifier],
    )


def _hashed(program: Program) -> Program:
    """With the hash of its own bytes as the source's: a module has no file."""
    digest = hashlib.sha256(save_program(program)).hexdigest()
    return replace(program, provenance=replace(program.provenance, sha256=digest))
