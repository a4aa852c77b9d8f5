"""The data of a compile: what passes fit on and, where one asks for it, select by; and held-out data that only the gate sees."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from effc.compiler.settings import Settings
from effc.data import DATA_BYTES, Dataset, Preprocess, load_dataset
from effc.errors import DataError, EffcWarning, Problem
from effc.ir import Program
from effc.passes import Pass

__all__ = ["Inputs", "check_files", "read_inputs"]

_FIT = 0.8  # share of --data that passes fit on, where one of them needs the rest to select by


@dataclass(frozen=True)
class Inputs:
    """What was read; None where nothing was given.

    Attributes:
        data: all of `--data`.
        fit, selection: its two parts; `fit` is all of it, and `selection` None, where no pass needs a selection part.
        held_out: `--eval`.
        preprocess: how images became inputs.
    """

    data: Dataset | None
    fit: Dataset | None
    selection: Dataset | None
    held_out: Dataset | None
    preprocess: Preprocess | None


def check_files(settings: Settings) -> None:
    """Raises DataError with the data files that are not there: that is said before minutes of work."""
    named = (("--data", settings.data), ("--eval", settings.eval))
    problems = [Problem(flag, str(path), "does not exist") for flag, path in named if path is not None and not path.exists()]
    if problems:
        raise DataError("there is no such data: give a .npz, a .npy or a folder of images", problems)


def read_inputs(settings: Settings, program: Program, passes: Sequence[Pass]) -> Inputs:
    """Read what the settings name. Raises DataError when it does not fit the program, LimitError when it is too large."""
    preprocess = Preprocess.parse(settings.preprocess) if settings.preprocess else None
    values, limit = program.interface.inputs, settings.limits.get("data_bytes", DATA_BYTES)
    data = held_out = fit = selection = None
    if settings.data is not None:
        data = load_dataset(settings.data, values, preprocess=preprocess, max_bytes=limit)
        fit, selection = data.split(_FIT, settings.seed) if any(one.needs_selection for one in passes) else (data, None)
    if settings.eval is not None:
        need_labels = settings.metric in ("top1", "perplexity")
        held_out = load_dataset(settings.eval, values, preprocess=preprocess, need_labels=need_labels, max_bytes=limit)
    if data is not None and held_out is not None and (settings.data == settings.eval or data.sha256 == held_out.sha256):
        warnings.warn("--data and --eval hold the same samples: what the gate measures says little about others", EffcWarning, stacklevel=2)
    return Inputs(data, fit, selection, held_out, preprocess)
