"""The data of a compile: what passes fit on and, where one asks for it, select by; and held-out data that only the gate sees."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from effc.compiler.settings import Settings
from effc.data import DATA_BYTES, Dataset, HeldArrays, Preprocess, load_dataset
from effc.errors import DataError, EffcWarning, InputRejectedError, LimitError, Problem
from effc.ir import Interface, Program
from effc.passes import Pass

__all__ = ["ARRAYS", "DataSource", "Inputs", "check_files", "held_arrays", "read_inputs"]

DataSource = str | Path | np.ndarray[Any, Any] | Mapping[str, Any]
ARRAYS = Path("(arrays)")  # how settings name data that are in memory
_NONE: Mapping[str, HeldArrays] = {}

_FIT = 0.8  # share of --data that passes fit on, where one of them needs the rest to select by


@dataclass(frozen=True)
class Inputs:
    """What was read; None where nothing was given.

    Attributes:
        data: all of `--data`.
        fit, selection: its two parts; `fit` is all of it, and `selection` None, where no pass needs a selection part.
        held_out: `--eval`.
        preprocess: how images became inputs.
        initial: parameters from before training, by name; `initial_sha256` is that of their file.
    """

    data: Dataset | None
    fit: Dataset | None
    selection: Dataset | None
    held_out: Dataset | None
    preprocess: Preprocess | None
    initial: Mapping[str, Tensor] | None = None
    initial_sha256: str | None = None


def held_arrays(given: Mapping[str, object]) -> dict[str, HeldArrays]:
    """What is in memory of the data that `compile_model` was given (by its argument's name). Raises DataError for what is no array."""
    return {name: HeldArrays(value, name) for name, value in given.items() if value is not None and not isinstance(value, str | Path)}


def check_files(settings: Settings, held: Mapping[str, HeldArrays] = _NONE) -> None:
    """Raises DataError with the data files that are not there: that is said before minutes of work."""
    named = {"data": settings.data, "eval": settings.eval, "init": settings.init}
    files = {f"--{name}": path for name, path in named.items() if path is not None and name not in held}
    wanted = {"--init": "a .safetensors file"}
    problems = [
        Problem(flag, str(path), "does not exist", f"give {wanted.get(flag, 'a .npz, a .npy or a folder of images')}")
        for flag, path in files.items()
        if not path.exists()
    ]
    if problems:
        raise DataError("there are no such data", problems)


def read_inputs(settings: Settings, program: Program, passes: Sequence[Pass], held: Mapping[str, HeldArrays] = _NONE) -> Inputs:
    """Read what the settings name, or take what is `held` in memory.

    Raises:
        DataError: it does not fit the program, or no data can. LimitError: a file is too large.
    """
    if settings.data is not None or settings.eval is not None:
        _refuse_uncounted_states(program.interface)
    preprocess = Preprocess.parse(settings.preprocess) if settings.preprocess else None
    values, limit = program.interface.frame_inputs, settings.limits.get("data_bytes", DATA_BYTES)
    data = held_out = fit = selection = None
    if settings.data is not None:
        data = load_dataset(held.get("data", settings.data), values, preprocess=preprocess, max_bytes=limit)
        in_order = bool(program.interface.resident) or any(one.in_order for one in passes)
        divide = any(one.needs_selection for one in passes)
        fit, selection = data.split(_FIT, settings.seed, in_order=in_order) if divide else (data, None)
    if settings.eval is not None:
        need_labels = settings.metric in ("top1", "perplexity")
        held_out = load_dataset(held.get("eval", settings.eval), values, preprocess=preprocess, need_labels=need_labels, max_bytes=limit)
    if data is not None and held_out is not None and data.sha256 == held_out.sha256:
        warnings.warn("--data and --eval hold the same samples: what the gate measures says little about others", EffcWarning, stacklevel=2)
    _say_unused(settings, passes)
    if settings.init is None:
        return Inputs(data, fit, selection, held_out, preprocess)
    content = _content(settings.init, limit)
    initial = _initial(settings.init, content, program)
    return Inputs(data, fit, selection, held_out, preprocess, initial, hashlib.sha256(content).hexdigest())


def _refuse_uncounted_states(interface: Interface) -> None:
    """Raises DataError for a step whose states have another leading axis than its inputs: data are samples, each with states of its own."""
    declared = {state.input for state in interface.states if not state.resident}
    inputs = [value for value in interface.inputs if value.name not in declared]
    counts = {value.shape[0] for value in inputs if value.shape}
    states = [value for value in interface.inputs if value.name in declared and value.shape and value.shape[0] not in counts]
    if counts and states:
        hint = "export the step with states (batch, layers, hidden), and let it swap the axes: gru(x, h.transpose(0, 1).contiguous())"
        raise DataError(
            f"data cannot be used with this step: they hold samples, and its states have no axis of them as {inputs[0]} has",
            [Problem(f"state {value.name!r}", str(value), "its first axis does not count samples", hint) for value in states],
        )


def _say_unused(settings: Settings, passes: Sequence[Pass]) -> None:
    if settings.init is not None and not any(one.uses_initial for one in passes):
        warnings.warn("--init is not used: no pass here rewinds to parameters from before training", EffcWarning, stacklevel=3)
    if settings.checkpoints is not None and not any(one.trains for one in passes):
        warnings.warn("--checkpoints is not used: no pass here trains", EffcWarning, stacklevel=3)


def _content(path: Path, limit: int) -> bytes:
    try:
        size = path.stat().st_size
        if size > limit:
            raise LimitError(f"--init {path} has {size:,} bytes, over the limit of {limit:,}: raise it with --limit data-bytes={size}")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"--init {path}: {error.strerror}") from error


def _initial(path: Path, content: bytes, program: Program) -> dict[str, Tensor]:
    """Parameters of a safetensors file that the program has, with its shapes and dtypes.

    Raises:
        InputRejectedError: it is no such file.
        DataError: a parameter has another shape or dtype than the program's, or is not finite, all of them at once; or it has none of them.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        found = load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise InputRejectedError(f"--init {path} is no safetensors file: {error}") from error
    problems = []
    for key, name in program.tensor_names.items():
        wanted = program.tensors[key]
        if name not in found:  # a pass that needs it says so; exporters add biases of zeros that no training has
            continue
        if found[name].shape != wanted.shape or found[name].dtype != wanted.dtype:
            have = f"{found[name].dtype} {list(found[name].shape)}"
            problems.append(Problem(name, have, f"the program has {wanted.dtype} {list(wanted.shape)}"))
        elif wanted.is_floating_point() and not bool(torch.isfinite(found[name]).all()):
            problems.append(Problem(name, "values", "are NaN or infinite"))
    if problems:
        raise DataError(f"--init {path} does not fit the program", problems)
    if not set(found) & set(program.tensor_names.values()):
        there, wanted_names = (", ".join(sorted(names)[:4]) for names in (found, program.tensor_names.values()))
        raise DataError(f"--init {path} has none of the program's parameters: it has {there}, ...; the program has {wanted_names}, ...")
    return {name: found[name] for name in program.tensor_names.values() if name in found}
