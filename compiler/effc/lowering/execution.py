"""Running lowered code without writing an artifact: for verification and tests."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from effc.ir import Program
from effc.lowering.lower import Lowered

__all__ = ["run_lowered"]


def run_lowered(lowered: Lowered, program: Program, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """Execute host code once.

    Args:
        lowered: made for a target that runs here.
        program: what it was made from; gives names, order and shapes.
        inputs: one array per input at the lowered batch, by the user's name.

    Returns:
        Outputs by the user's name.
    """
    from effc.runtime.executor import Executor, PlanExecutor, VirtualMachineExecutor, aligned_empty

    interface = program.interface
    names = [value.name for value in interface.inputs], [value.name for value in interface.outputs]
    placed = []
    for value in interface.inputs:
        placed.append(aligned_empty(value.at_batch(lowered.batch), value.dtype))
        placed[-1][...] = inputs[value.name]
    outputs = {value.name: aligned_empty(value.at_batch(lowered.batch), value.dtype) for value in interface.outputs}
    with tempfile.TemporaryDirectory() as folder:
        code = Path(folder, "model.so")
        code.write_bytes(lowered.code)
        executor: Executor
        if lowered.plan is not None:
            executor = PlanExecutor(lowered.plan, *names, lowered.parameters, code)
        else:
            executor = VirtualMachineExecutor(lowered.vm or {}, names[1], lowered.parameters, code)
        executor.call(placed, list(outputs.values()))
    return outputs
