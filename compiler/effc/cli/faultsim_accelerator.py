"""`effc faultsim --accelerator`: from a model to the array that runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from effc.data import Preprocess
    from effc.faultsim.accelerator import ArraySubject
    from effc.faultsim.spec import CampaignSpec
    from effc.faultsim.subject import Subject

__all__ = ["on_accelerator"]


def on_accelerator(subject: Subject, spec: CampaignSpec, preprocess: Preprocess | None, max_bytes: int) -> ArraySubject:
    """The subject's program in int8 on the spec's accelerator.

    Args:
        subject: what the command line names. `spec`: of the campaign.
        preprocess, max_bytes: as for the samples that faults are judged on.

    Raises:
        ConfigError: there is no such accelerator, the subject is compiled code, or `data` are missing or not needed.
        DataError: `data` do not fit the model.
    """
    from effc.cost.accelerator.description import find_accelerator
    from effc.data import load_dataset
    from effc.errors import ConfigError
    from effc.faultsim.accelerator import ArraySubject, for_array, has_integer_products
    from effc.faultsim.subject import ProgramSubject

    if spec.accelerator is None:
        raise ConfigError("--data are samples that a network is quantised on for an accelerator: give --accelerator, or leave them out")
    if not isinstance(subject, ProgramSubject):
        raise ConfigError("an accelerator runs a model's program, not its compiled code: leave out --executor artifact")
    description = find_accelerator(spec.accelerator)
    if has_integer_products(subject.program):
        if spec.data is not None:
            raise ConfigError("the model has integers of its own, with which the accelerator runs it: leave out --data")
        return ArraySubject(subject.program, subject.name, description)
    if spec.data is None:
        raise ConfigError("the model is one of floats, and the accelerator multiplies int8: give --data calib.npz, which sets the ranges")
    calibration = load_dataset(spec.data, subject.inputs, preprocess=preprocess, max_bytes=max_bytes)
    return ArraySubject(for_array(subject.program, calibration), subject.name, description)
