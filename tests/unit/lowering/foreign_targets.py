"""Targets of packages that compute parts of a program, and what tests of them look at."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from effc.ir import Batch, Program, Provenance
from effc.lowering import Lowered
from effc.runtime.plan import Step

__all__ = ["TARGET", "program_of", "steps_of"]

TARGET = """
from dataclasses import replace
from effc.targets import Extension, find_target
EXTENSION = Extension("{name}", (replace(find_target("{base}"), name="{name}", runs_here={runs}),), __name__ + ":HOOKS")
"""


def program_of(net: nn.Module, *inputs: Tensor) -> Program:
    exported = torch.export.export(net.eval(), inputs)
    return Program.from_exported(exported, Provenance("net", "torch", "0"), batch=Batch(False, "one"))


def steps_of(lowered: Lowered, family: str) -> list[Step]:
    assert lowered.plan is not None
    return [step for step in lowered.plan.steps if step.family == family]
