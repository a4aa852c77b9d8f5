"""Running lowered code without writing an artifact: for verification and tests."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from effc.ir import Program
from effc.lowering.lower import Lowered

__all__ = ["run_lowered"]


Arrays = Mapping[str, np.ndarray[Any, Any]]


def run_lowered(lowered: Lowered, program: Program, inputs: Arrays, *, earlier: Sequence[Arrays] = ()) -> dict[str, np.ndarray[Any, Any]]:
    """Execute host code once.

    Args:
        lowered: made for a target that runs here.
        program: what it was made from; gives names, order and shapes.
        inputs: one array per input at the lowered batch, by the user's name. Code that keeps resident states itself begins a stream: it
            takes the frame inputs alone, and gives the frame outputs.
        earlier: the inputs of calls before this one, for code that keeps states.

    Returns:
        Outputs by the user's name.
    """
    from effc.runtime.executor import Executor, PlanExecutor, VirtualMachineExecutor, aligned_empty

    interface = program.interface
    keeps = lowered.plan is not None and lowered.plan.state_bytes > 0
    taken, given = (interface.frame_inputs, interface.frame_outputs) if keeps else (interface.inputs, interface.outputs)
    names = [value.name for value in taken], [value.name for value in given]
    placed = [aligned_empty(value.at_batch(lowered.batch), value.dtype) for value in taken]
    outputs = {value.name: aligned_empty(value.at_batch(lowered.batch), value.dtype) for value in given}
    with tempfile.TemporaryDirectory() as folder:
        code = Path(folder, "model.so")
        code.write_bytes(lowered.code)
        executor: Executor
        if lowered.plan is not None:
            executor = PlanExecutor(lowered.plan, *names, lowered.parameters, code)
        else:
            executor = VirtualMachineExecutor(lowered.vm or {}, names[1], lowered.parameters, code)
        states = executor.new_states()
        for call in (*earlier, inputs):
            for value, place in zip(taken, placed, strict=True):
                place[...] = call[value.name]
            executor.call(placed, list(outputs.values()), states)
    return outputs
