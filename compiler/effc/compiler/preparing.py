"""How `effc compile` and `effc estimate` begin: the model that the settings are about, and what its passes may use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from effc.compiler.inputs import Inputs
from effc.compiler.settings import Settings
from effc.frontends import Limits, load_program
from effc.ir import Program
from effc.passes import Context
from effc.passes.base import Progress
from effc.targets import Target

__all__ = ["context_of", "read_model"]


def read_model(settings: Settings, source: Any, progress: Progress, example_inputs: Sequence[Any] | None = None) -> Program:
    """The program of a source, as `compile_model` takes it. Raises what `load_program` raises."""
    with progress("reading the model", 1) as advance:
        program = load_program(
            source,
            input_shapes=settings.input_shapes or None,
            limits=Limits(**settings.limits),
            example_inputs=example_inputs,
            states=settings.states or None,
            check_import=settings.check_import,
        )
        advance(1)
    return program


def context_of(settings: Settings, given: Inputs, target: Target, progress: Progress) -> Context:
    """What passes are run in."""
    return Context(
        given.fit,
        given.selection,
        target,
        settings.seed,
        progress,
        metric=settings.metric,
        initial=given.initial,
        checkpoints=settings.checkpoints,
    )
