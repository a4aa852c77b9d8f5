"""Code for another machine checks itself: a static program with the golden vectors inside, run under an emulator where there is one.

Where there is none, the same program is lowered for this machine and run here: of the way to the other machine's code only its last part,
code generation, then stays untried.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from effc.compiler.differences import refuse_differences
from effc.compiler.golden import Checks
from effc.errors import MissingDependencyError, VerificationError
from effc.ir import Interface, Program, Value
from effc.ir.arrays import to_numpy, to_torch
from effc.ir.streaming import in_frames
from effc.lowering import Lowered, lower, run_lowered
from effc.lowering.toolchain import link_static
from effc.runtime.artifact import SELF_TEST
from effc.runtime.selftest import BLOB, HEADER, self_test, sources
from effc.runtime.tensors import Array, dtype_named
from effc.runtime.verify import compare
from effc.targets import Target, find_target
from effc.targets.emulators import emulator_for, emulator_install

__all__ = ["SELF_TEST", "CannotEmulateError", "SelfTestRun", "build", "rehearse", "run_emulated"]

_FRAMES = 3  # of a clip: one that is computed whole, and two that are not
_TIMEOUT = 600  # seconds; an emulator is some hundred times slower than the machine


class CannotEmulateError(MissingDependencyError):
    """A self-test did not run under an emulator, which says nothing of the code.

    Attributes:
        why: in a few words.
        how: what to do, where something on this machine helps; empty where nothing does.
        installed: whether there is an emulator, which then failed.
    """

    def __init__(self, why: str, how: str, *, installed: bool) -> None:
        super().__init__(f"{why}; {how}" if how else why)
        self.why, self.how, self.installed = why, how, installed


@dataclass(frozen=True)
class SelfTestRun:
    """What the static self-test said.

    Attributes:
        emulator: the program that ran it.
        text: its output, such as `PASS logits 1.6e-07`.
    """

    emulator: str
    text: str


def build(program: Program, lowered: Lowered, checks: Checks, target: Target) -> bytes | None:
    """The executable; None for code that runs on TVM's virtual machine, which is not on the target."""
    if lowered.plan is None:
        return None
    inputs, expected, earlier = _vectors(program, checks, lowered)
    described = self_test(lowered.plan, lowered.parameters, inputs, expected, earlier=earlier)
    own = sources("" if target.hosted else target.architecture)
    return link_static(lowered.objects, own, {HEADER: described.header, BLOB: described.blob}, target)


def run_emulated(executable: bytes, target: Target) -> SelfTestRun:
    """Run it.

    Raises:
        CannotEmulateError: the target has no emulator, it is not installed, it ends by a mistake of its own, or takes too long.
        VerificationError: it ran and failed.
    """
    emulator = emulator_for(target)
    if emulator is None:
        how = emulator_install(target) if target.emulator else ""
        raise CannotEmulateError(f"nothing that is installed emulates {target.name}", how, installed=False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / SELF_TEST
        path.write_bytes(executable)
        os.chmod(path, 0o755)
        try:
            done = subprocess.run(
                [emulator, *target.emulator_flags, str(path)], capture_output=True, text=True, check=False, timeout=_TIMEOUT
            )
        except subprocess.TimeoutExpired as error:
            why = f"the self-test for {target.name} did not end within {_TIMEOUT} s under {emulator}"
            raise CannotEmulateError(why, "", installed=True) from error
    text = " ".join((done.stdout + done.stderr).split())
    if done.returncode < 0 and (mistake := re.search(r"qemu-\S+: (\S+: \S+: Assertion .* failed)", text)):
        why = f"the self-test for {target.name} did not run: {emulator} ended by an assertion of its own ({mistake[1]})"
        raise CannotEmulateError(why, "try a newer QEMU", installed=True)
    if done.returncode != 0:
        raise VerificationError(f"the self-test for {target.name} failed under {emulator} with code {done.returncode}: {text}")
    return SelfTestRun(emulator, text)


def rehearse(program: Program, checks: Checks, batch: int) -> float:
    """Lower the program for this machine and run its golden inputs; the largest relative difference.

    Raises:
        VerificationError: an output is further from the program's than float32 sums in another order explain.
    """
    lowered = lower(program, find_target("cpu"), batch=batch)
    inputs, expected, earlier = _vectors(program, checks, lowered)
    found = compare(run_lowered(lowered, program, inputs, earlier=earlier), expected)
    refuse_differences(
        found, f"the lowered program, tried on this machine, differs by more than {found.tolerance:g} of the largest magnitude"
    )
    return found.worst


def _vectors(program: Program, checks: Checks, lowered: Lowered) -> tuple[dict[str, Array], dict[str, Array], list[dict[str, Array]]]:
    """Inputs and outputs of a call, and the inputs of calls before it: the first frames of a clip, for code that keeps states.

    Code that takes resident states and gives their new values begins a stream: its states are zeros.
    """
    interface = program.interface
    if not interface.resident:
        return _one_call(checks.inputs, interface, lowered.batch), _one_call(checks.outputs, interface, lowered.batch), []
    if lowered.plan is not None and lowered.plan.state_bytes:
        frames = [_frame(checks.inputs, interface.frame_inputs, t) for t in range(min(_FRAMES, _samples(checks)))]
        return frames[-1], _frame(checks.outputs, interface.frame_outputs, len(frames) - 1), frames[:-1]
    own = {state.input for state in interface.resident}
    states = {value.name: np.zeros(value.at_batch(1), dtype_named(value.dtype)) for value in interface.inputs if value.name in own}
    inputs = {**_frame(checks.inputs, interface.frame_inputs, 0), **states}
    results = program.run({name: to_torch(array) for name, array in inputs.items()})
    return inputs, {name: to_numpy(result) for name, result in results.items()}, []


def _samples(checks: Checks) -> int:
    return len(next(iter(checks.inputs.values())))


def _frame(arrays: Mapping[str, Array], values: Sequence[Value], t: int) -> dict[str, Array]:
    return {value.name: arrays[value.name][t : t + 1] if in_frames(value) else arrays[value.name] for value in values}


def _one_call(arrays: Mapping[str, Array], interface: Interface, batch: int) -> dict[str, Array]:
    """The golden vectors of one call: the first `batch` samples, repeated where there are fewer."""
    if not interface.batch.symbolic:
        return dict(arrays)
    batched = {value.name for value in (*interface.inputs, *interface.outputs) if value.shape and isinstance(value.shape[0], str)}
    return {name: np.resize(array, (batch, *array.shape[1:])) if name in batched else array for name, array in arrays.items()}
