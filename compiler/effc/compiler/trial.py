"""Compiled code is run before it is written: it must compute what the program computes. Here it is also timed, step by step."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from effc.errors import InternalError, Problem, VerificationError
from effc.runtime import Session, Verification, load, verify_golden, write_artifact
from effc.runtime.executor import CODE, address, aligned_empty
from effc.runtime.native import load_code
from effc.runtime.plan import Plan
from effc.runtime.tensors import Array, dtype_named
from effc.runtime.threads import use_threads

__all__ = ["Trial", "try_out"]

_SECONDS = 0.3  # spent on each of the two timings
_CALLS = 200
_PREFIX = "effc-trial-"


@dataclass(frozen=True)
class Trial:
    """What one run of the artifact on this machine showed.

    Attributes:
        verification: its outputs beside the program's on the golden inputs.
        call: median nanoseconds of one call on the golden inputs' first batch.
        steps: median nanoseconds of every step of the plan, in order; empty on the virtual machine.
        threads: worker threads.
    """

    verification: Verification
    call: float
    steps: tuple[float, ...]
    threads: int


def try_out(files: Mapping[str, bytes], fields: Mapping[str, Any]) -> Trial:
    """Load the artifact from a temporary folder, check it against its golden vectors, and time it.

    Raises:
        VerificationError: an output is further from the program's than float32 sums in another order explain.
    """
    _remove_leftovers()
    with tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{os.getpid()}-") as folder:
        path = Path(folder) / "artifact"
        write_artifact(path, files, fields)
        session = load(path)
        verification = verify_golden(session)
        if not verification.passed:
            wrong = [entry for entry in verification.differences if not entry.within(verification.tolerance)]
            raise VerificationError(
                f"the compiled code differs from the program by more than {verification.tolerance:g} of the largest magnitude",
                [Problem(f"output {one.name}", f"{one.relative:.3g} at {one.index}", one.reason or "is too far off") for one in wrong],
            )
        golden, _ = session.artifact.golden()
        call = _call_time(session, golden)
        plan = session.manifest.plan
        steps = _step_times(plan, session, golden, path / CODE) if plan is not None else ()
        return Trial(verification, call, steps, session.threads_used)


def _remove_leftovers() -> None:
    """Trials of this user whose process was killed: they hold whole sets of weights."""
    for entry in list(os.scandir(tempfile.gettempdir())):
        match = re.fullmatch(_PREFIX + r"(\d+)-\w+", entry.name)
        with suppress(OSError):  # another compile may be tidying up, too
            if match and not Path("/proc", match[1]).exists() and entry.stat(follow_symlinks=False).st_uid == os.getuid():
                shutil.rmtree(entry.path)


def _call_time(session: Session, golden: Mapping[str, Array]) -> float:
    inputs = _first_batch(session, golden)
    durations: list[int] = []
    end = time.monotonic() + _SECONDS
    while len(durations) < 3 or (time.monotonic() < end and len(durations) < _CALLS):
        start = time.perf_counter_ns()
        session.run(inputs)
        durations.append(time.perf_counter_ns() - start)
    return float(np.median(durations[1:]))


def _first_batch(session: Session, golden: Mapping[str, Array]) -> dict[str, Array]:
    batch = session.manifest.batch

    def fitted(array: Array, batched: bool) -> Array:
        return np.resize(array, (batch, *array.shape[1:])) if batched else array

    return {spec.name: fitted(golden[spec.name], spec.batched) for spec in session.inputs}


def _step_times(plan: Plan, session: Session, golden: Mapping[str, Array], code: Path) -> tuple[float, ...]:
    """Each kernel is timed in its place, after those before it have run, on a block and an arena of its own."""
    library = load_code(code)
    arena, block = aligned_empty((plan.arena_bytes,), "uint8"), aligned_empty((plan.parameter_bytes,), "uint8")
    inputs = _first_batch(session, golden)
    held: dict[str, Array] = {}
    addresses: dict[str, int] = {}
    for buffer in plan.buffers:
        if buffer.room == "arena":
            addresses[buffer.name] = address(arena) + buffer.offset
        elif buffer.room == "parameter":
            stored = session.parameter_view(buffer.name)
            place = block[buffer.offset : buffer.offset + stored.nbytes].view(dtype_named(buffer.dtype)).reshape(buffer.shape)
            place[...] = stored
            addresses[buffer.name] = address(block) + buffer.offset
        else:
            held[buffer.name] = aligned_empty(buffer.shape, buffer.dtype)
            if buffer.room == "input":
                held[buffer.name][...] = inputs[buffer.name]
            addresses[buffer.name] = address(held[buffer.name])
    calls = [(getattr(library, step.kernel), [addresses[name] for name in (*step.reads, *step.writes)]) for step in plan.steps]
    for kernel, arguments in calls:
        kernel.restype = ctypes.c_int32
        kernel.argtypes = [ctypes.c_void_p] * len(arguments)
    use_threads(session.threads)
    rounds: list[list[int]] = []
    end = time.monotonic() + _SECONDS
    while len(rounds) < 3 or (time.monotonic() < end and len(rounds) < _CALLS):
        durations = []
        for kernel, arguments in calls:
            start = time.perf_counter_ns()
            status = kernel(*arguments)
            durations.append(time.perf_counter_ns() - start)
            if status != 0:
                raise InternalError(f"the kernel {kernel.__name__} failed with status {status}: its worker threads could not run")
        rounds.append(durations)
    return tuple(float(value) for value in np.median(np.array(rounds[1:]), axis=0))
