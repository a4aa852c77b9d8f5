"""The data of a compile: one part to fit, one to select by, and held-out data that only the gate sees."""

from __future__ import annotations

from dataclasses import dataclass

from effc.compiler.settings import Settings
from effc.data import DATA_BYTES, Dataset, Preprocess, load_dataset
from effc.ir import Program

__all__ = ["Inputs", "read_inputs"]

_FIT = 0.8  # share of --data that passes fit on


@dataclass(frozen=True)
class Inputs:
    """What was read; None where nothing was given.

    Attributes:
        data: all of `--data`; `fit` and `selection` are its two parts.
        held_out: `--eval`.
        preprocess: how images became inputs.
    """

    data: Dataset | None
    fit: Dataset | None
    selection: Dataset | None
    held_out: Dataset | None
    preprocess: Preprocess | None


def read_inputs(settings: Settings, program: Program) -> Inputs:
    """Read what the settings name. Raises DataError when it does not fit the program, LimitError when it is too large."""
    preprocess = Preprocess.parse(settings.preprocess) if settings.preprocess else None
    values, limit = program.interface.inputs, settings.limits.get("data_bytes", DATA_BYTES)
    data = held_out = fit = selection = None
    if settings.data is not None:
        data = load_dataset(settings.data, values, preprocess=preprocess, max_bytes=limit)
        fit, selection = data.split(_FIT, settings.seed)
    if settings.eval is not None:
        need_labels = settings.metric in ("top1", "perplexity")
        held_out = load_dataset(settings.eval, values, preprocess=preprocess, need_labels=need_labels, max_bytes=limit)
    return Inputs(data, fit, selection, held_out, preprocess)
