"""What would make native code read or write foreign memory: a manifest whose plan or states disagree with the rest of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from effc.runtime.cuda.limits import refused
from effc.runtime.plan import ALIGNMENT, Plan
from effc.runtime.tensors import dtype_named

if TYPE_CHECKING:
    from effc.runtime.manifest import Manifest

__all__ = ["check_plan", "check_states"]


def check_states(manifest: Manifest) -> None:
    """Old and new value of a state change places: native code would write past the end of the smaller. Raises ValueError."""
    inputs, outputs = ({spec.name: spec for spec in specs} for specs in (manifest.inputs, manifest.outputs))
    for state in manifest.states:
        old, new = inputs.get(state.input), outputs.get(state.output)
        if old is None or new is None:
            raise ValueError(f"the state {state.input} -> {state.output} is no input and output")
        if (old.shape, old.dtype) != (new.shape, new.dtype):
            raise ValueError(f"the state {old} becomes {new}")
    for names in ([state.input for state in manifest.states], [state.output for state in manifest.states]):
        if len(set(names)) != len(names):
            raise ValueError(f"a state occurs twice in {names}")
    if manifest.streams and manifest.batch != 1:
        raise ValueError(f"resident states, but {manifest.batch} samples a call: frames come one by one")


def check_plan(manifest: Manifest, plan: Plan) -> None:
    """Raises ValueError where the plan's buffers are not the declared tensors, or lie outside their blocks."""
    for room, specs in (("input", manifest.code_inputs), ("output", manifest.code_outputs)):
        declared = {spec.name: (spec.shape, spec.dtype) for spec in specs}
        planned = {buffer.name: (buffer.shape, buffer.dtype) for buffer in plan.buffers if buffer.room == room}
        if declared != planned:
            raise ValueError(f"the plan's {room}s {planned} are not the declared {declared}")
    for room, total in (("parameter", plan.parameter_bytes), ("arena", plan.arena_bytes), ("state", plan.state_bytes)):
        for buffer in plan.buffers:
            size = dtype_named(buffer.dtype).itemsize
            for extent in buffer.shape:
                size *= extent
            if buffer.room == room and not (buffer.offset >= 0 and size <= buffer.size and buffer.offset + buffer.size <= total):
                raise ValueError(f"buffer {buffer.name} lies outside its {room} block")
    if plan.parameter_bytes and not {buffer.name for buffer in plan.in_room("parameter")} <= manifest.parameters.keys():
        raise ValueError("the plan names parameters that are not stored")
    _check_counters(manifest, plan)
    if manifest.executor == "cuda":
        _check_launches(plan)


def _check_launches(plan: Plan) -> None:
    """Every step is made of launches whose sizes a GPU takes and whose pointers are the step's buffers."""
    for step in (*plan.steps, *plan.fresh):
        count = len(step.reads) + len(step.writes)
        for launch in step.launches:
            numbers = (*launch.grid, *launch.block, launch.shared, *launch.arguments)
            if not all(type(number) is int and number >= 0 for number in numbers) or len(launch.grid) != 3 or len(launch.block) != 3:
                raise ValueError(f"the launch {launch.kernel} has sizes that are no whole numbers, or not three of them")
            why = refused(launch.grid, launch.block)
            if why:
                raise ValueError(f"the launch {launch.kernel} {why}")
            if any(position >= count for position in launch.arguments):
                raise ValueError(f"the launch {launch.kernel} takes a buffer that its step has not")
    if not any(step.launches for step in plan.steps):
        raise ValueError("the executor is cuda, but no step has a launch")


def _check_counters(manifest: Manifest, plan: Plan) -> None:
    """What the runtime itself reads out of the block of states: the clock and the counters of computed positions."""
    kept = {buffer.name: buffer for buffer in plan.in_room("state")}
    numbers = [plan.state_bytes, *(number for buffer in kept.values() for number in (buffer.offset, buffer.size, *buffer.shape))]
    if not all(type(number) is int and number >= 0 for number in numbers) or any(one.offset % ALIGNMENT for one in kept.values()):
        raise ValueError("sizes and offsets of states must be whole numbers, offsets multiples of the alignment")
    if plan.state_bytes and not manifest.streams:
        raise ValueError("the plan has a block of states, but no state is resident")
    for step in plan.steps:
        counters = kept.get(step.active)
        if step.active and (counters is None or counters.dtype != "int32" or not math.prod(counters.shape) or step.positions < 1):
            raise ValueError(f"step {step.kernel} counts its positions in {step.active}, which is no int32 state, or has none")
    if plan.state_bytes:
        clock = kept.get(plan.clock)
        if clock is None or (clock.shape, clock.dtype) != ((1,), "int32"):
            raise ValueError(f"the plan's clock {plan.clock!r} is no int32[1] state")
