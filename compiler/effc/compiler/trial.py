"""Compiled code is run before it is written: it must compute what the program computes. Here it is also timed, step by step."""

from __future__ import annotations

import ctypes
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from effc.compiler.c_build import CannotTryError, c_files
from effc.compiler.c_self_tests import SourcesTrial, self_tests
from effc.compiler.c_session import c_session
from effc.compiler.differences import refuse_differences
from effc.compiler.resets import check_resets
from effc.compiler.scratch import scratch_folder
from effc.errors import VerificationError
from effc.ir import Program
from effc.runtime import Session, Stream, Verification, load, verify_golden, write_artifact
from effc.runtime.executor import CODE, address, aligned_empty, step_failure
from effc.runtime.manifest import TensorSpec
from effc.runtime.native import load_code
from effc.runtime.plan import Plan, Step
from effc.runtime.tensors import Array, dtype_named
from effc.runtime.threads import use_threads
from effc.targets import Target

__all__ = ["Trial", "try_out", "try_out_sources"]

_SECONDS = 0.3  # spent on each of the two timings
_CALLS = 200


@dataclass(frozen=True)
class Trial:
    """What one run of the artifact on this machine showed.

    Attributes:
        verification: its outputs beside the program's on the golden inputs.
        call: median nanoseconds of one call on the golden inputs' first batch; of one frame, for a streaming program.
        steps: median nanoseconds of every step of the plan, in order; empty on the virtual machine and on a GPU. For a streaming program
            over the golden frames after the first.
        threads: worker threads.
    """

    verification: Verification
    call: float
    steps: tuple[float, ...]
    threads: int


def try_out(files: Mapping[str, bytes], fields: Mapping[str, Any], program: Program) -> Trial:
    """Load the artifact from a temporary folder, check it against its golden vectors, and time it.

    A streaming one is also run with a reset before every frame (`resets`).

    Args:
        files, fields: of the artifact.
        program: what it was made from.

    Raises:
        VerificationError: an output is further from the program's than float32 sums in another order explain; or frames of a stream are
            not those that are computed whole, though nothing is truncated.
    """
    with scratch_folder() as folder:
        path = folder / "artifact"
        write_artifact(path, files, fields)
        session = load(path)
        verification = _checked(session, program)
        golden, _ = session.artifact.golden()
        call = _call_time(session, golden)
        plan = session.manifest.plan
        steps = _step_times(plan, session, golden, path / CODE) if plan is not None and session.manifest.executor == "plan" else ()
        return Trial(verification, call, steps, session.threads_used)


def try_out_sources(files: Mapping[str, bytes], fields: Mapping[str, Any], program: Program, target: Target) -> SourcesTrial:
    """`try_out` for an artifact of C sources, with the compilers and boards that are here; without times, which would be this machine's.

    What cannot be tried here is in the result.

    Raises:
        VerificationError: as `try_out`; or a compiler refuses the sources, or their self-test fails.
    """
    verification = unable = None
    with scratch_folder() as folder:
        path = folder / "artifact"
        write_artifact(path, files, fields)
        try:
            verification = _checked(c_session(path), program)
        except CannotTryError as error:
            unable = error
    tests = self_tests(c_files(files), target, unable)
    for one in tests:
        if one.passed is False:
            raise VerificationError(one.said)
    return SourcesTrial(verification, tests)


def _checked(session: Session, program: Program) -> Verification:
    """The outputs beside the program's on the golden inputs. Raises VerificationError."""
    verification = verify_golden(session)
    refuse_differences(
        verification, f"the compiled code differs from the program by more than {verification.tolerance:g} of the largest magnitude"
    )
    golden, _ = session.artifact.golden()
    resets = check_resets(session, program, golden)
    if resets is not None:
        refuse_differences(resets, "frames of the compiled stream differ from the same frames after a reset, which must have the same bits")
    return verification


def _call_time(session: Session, golden: Mapping[str, Array]) -> float:
    calls = _calls(session, golden)
    run = Stream(session).run if session.manifest.streams else session.run
    durations: list[int] = []
    end = time.monotonic() + _SECONDS
    while len(durations) < 3 or (time.monotonic() < end and len(durations) < _CALLS):
        for inputs in calls:
            start = time.perf_counter_ns()
            run(inputs)
            durations.append(time.perf_counter_ns() - start)
    return float(np.median(durations[1:]))


def _calls(session: Session, golden: Mapping[str, Array]) -> list[dict[str, Array]]:
    """What goes into a call: the first batch of the golden inputs, or every frame of a clip."""
    batch, streams = session.manifest.batch, session.manifest.streams
    frames = len(next(iter(golden.values()))) if streams else 1

    def part(spec: TensorSpec, index: int) -> Array:
        array = golden[spec.name]
        if streams:
            return array[index : index + 1] if array.shape != spec.shape else array
        return np.resize(array, (batch, *array.shape[1:])) if spec.batched else array

    wanted = session.manifest.stream_inputs if streams else session.inputs  # a stream keeps the states by itself
    return [{spec.name: part(spec, index) for spec in wanted} for index in range(frames)]


def _step_times(plan: Plan, session: Session, golden: Mapping[str, Array], code: Path) -> tuple[float, ...]:
    """Each kernel is timed in its place, after those before it have run, on blocks and an arena of its own."""
    library = load_code(code)
    blocks = {
        "arena": aligned_empty((plan.arena_bytes,), "uint8"),
        "parameter": aligned_empty((plan.parameter_bytes,), "uint8"),
        "state": aligned_empty((plan.state_bytes,), "uint8"),
    }
    blocks["state"][:] = 0
    held: dict[str, Array] = {}
    addresses: dict[str, int] = {}
    for buffer in plan.buffers:
        if buffer.room in blocks:
            addresses[buffer.name] = address(blocks[buffer.room]) + buffer.offset
        else:
            held[buffer.name] = aligned_empty(buffer.shape, buffer.dtype)
            held[buffer.name][...] = 0  # also of states that the code takes and gives
            addresses[buffer.name] = address(held[buffer.name])
        if buffer.room == "parameter":
            stored = session.parameter_view(buffer.name)
            place = blocks["parameter"][buffer.offset : buffer.offset + stored.nbytes].view(dtype_named(buffer.dtype)).reshape(buffer.shape)
            place[...] = stored

    def prepared(position: int, step: Step) -> Callable[[], int]:
        kernel = getattr(library, step.kernel)
        pointers = [ctypes.c_void_p(addresses[name]) for name in (*step.reads, *step.writes)]
        kernel.restype, kernel.argtypes = ctypes.c_int32, [ctypes.c_void_p] * len(pointers)
        return functools.partial(_done, plan, position, kernel, pointers)

    def place_inputs(inputs: Mapping[str, Array]) -> None:
        for name, array in inputs.items():
            held[name][...] = array

    calls = _calls(session, golden)
    steps = [prepared(*entry) for entry in enumerate(plan.steps)]
    fresh = [prepared(*entry) for entry in enumerate(plan.fresh, len(steps))]
    use_threads(session.threads)
    place_inputs(calls[0])
    if fresh:  # the first frame of a stream is computed whole: its steps are others
        for run in (steps[0], *fresh):
            run()
        calls = [*calls[1:], calls[0]]
    rounds: list[list[int]] = []
    end = time.monotonic() + _SECONDS
    while len(rounds) < 3 or (time.monotonic() < end and len(rounds) < _CALLS):
        for inputs in calls:
            place_inputs(inputs)
            rounds.append([run() for run in steps])
    return tuple(float(value) for value in np.median(np.array(rounds[1:]), axis=0))


def _done(plan: Plan, position: int, kernel: Any, pointers: Sequence[Any]) -> int:
    """The nanoseconds of one run of a step. Raises what `step_failure` gives."""
    start = time.perf_counter_ns()
    status = kernel(*pointers)
    duration = time.perf_counter_ns() - start
    if status != 0:
        raise step_failure(plan, position, status)
    return duration
