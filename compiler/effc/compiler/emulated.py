"""Artifacts whose code this machine cannot run, verified: their self-test runs under the target's emulator, CUDA C runs on the CPU."""

from __future__ import annotations

import re
from collections.abc import Sequence

from effc.compiler.artifact_targets import target_of
from effc.compiler.c_self_tests import SelfTest
from effc.compiler.crosscheck import CannotEmulateError, run_emulated
from effc.compiler.cuda_trial import cannot_emulate, gpu_here, run_on_cpu
from effc.compiler.golden import run_program
from effc.compiler.verdict import Finding, Verdict, is_exact
from effc.errors import MissingDependencyError, VerificationError
from effc.ir.storage import load_program_bytes
from effc.runtime import Artifact, Verification
from effc.runtime.artifact import SELF_TEST
from effc.runtime.cuda.executor import CUBIN, SOURCE
from effc.runtime.executor import CODE
from effc.runtime.verify import TOLERANCE, Difference, compare
from effc.targets import Target

__all__ = ["foreign_target", "lacks_gpu", "verdict_of_foreign", "verdict_without_gpu"]


def foreign_target(artifact: Artifact) -> Target | None:
    """The target of an artifact with a self-test, because its code is for another machine; None where its code may be loaded here.

    Raises:
        MissingDependencyError: the target is of a package that is not installed, or broken.
    """
    if SELF_TEST not in artifact.manifest.files:
        return None
    target = target_of(artifact)
    return None if target is None or target.runs_here else target


def verdict_of_foreign(artifact: Artifact, target: Target, left_out: Sequence[str]) -> Verdict:
    """Whether the code passes its self-test, and whether the golden outputs that it is held against are its program's.

    Args:
        artifact: with code that does not run here.
        target: what it is for.
        left_out: what else it should have been compared with.

    Raises:
        MissingDependencyError: the target has no emulator on this machine, or that breaks.
    """
    test = _self_test(artifact, target)
    worst = _LARGEST.search(test.said) if test.passed else None
    difference = Difference("self-test", float(worst[1]) if worst else float("inf"), None, "" if test.passed else test.said)
    found = Finding(f"self-test of the code, under {test.where}", Verification((difference,), TOLERANCE), 1, None, True)
    notes = [f"{CODE} itself was not loaded: the self-test is linked from the same object files"]
    return _verdict(artifact, found, [*notes, *_left_out(left_out, target.name)], (test,))


def lacks_gpu(artifact: Artifact) -> bool:
    """Whether the code is for a GPU that this machine does not have."""
    return artifact.manifest.executor == "cuda" and not gpu_here(str(artifact.manifest.data["target"].get("cpu", "")))


def verdict_without_gpu(artifact: Artifact, left_out: Sequence[str]) -> Verdict:
    """Whether the CUDA C, run on this machine's CPU, gives the golden outputs, and whether those are its program's.

    Args:
        artifact: with code for a GPU.
        left_out: what else it should have been compared with.

    Raises:
        MissingDependencyError: the CPU does not run it, either.
        VerificationError: it lacks a barrier.
    """
    name, why = artifact.manifest.data["target"].get("name"), cannot_emulate(artifact)
    if why:
        raise MissingDependencyError(
            f"{artifact.path} was compiled for {name}, this machine has no such GPU, and its CPU does not run it: {why}"
        )
    verification, count = run_on_cpu(artifact)
    found = Finding(f"{SOURCE} on this machine's CPU against golden outputs", verification, count, None, True)
    notes = [f"{CUBIN} was not run, for want of such a GPU: {SOURCE} is what it was compiled from"]
    return _verdict(artifact, found, [*notes, *_left_out(left_out, str(name))], ())


def _verdict(artifact: Artifact, found: Finding, notes: Sequence[str], tests: tuple[SelfTest, ...]) -> Verdict:
    """What was found of the code, and whether the golden outputs are those of the artifact's own program."""
    program = load_program_bytes(artifact.read("program.pt2"), name="program.pt2")
    inputs, outputs = artifact.golden()
    count = max((len(array) for array in inputs.values() if array.ndim), default=1)
    golden = Finding("golden outputs against its own program", compare(outputs, run_program(program, inputs)), count, None, True)
    lossy = tuple(spec for spec in artifact.manifest.data["passes"] if not is_exact(spec))
    return Verdict((found, golden), "", lossy, tuple(notes), True, tests)


def _left_out(what: Sequence[str], target: str) -> list[str]:
    return [f"not compared with {one}: code for {target} does not run on this machine" for one in what]


_LARGEST = re.compile(r"largest error (\S+),")  # what selftest.c says at its end, where it passed


def _self_test(artifact: Artifact, target: Target) -> SelfTest:
    where = " ".join((target.emulator, *target.emulator_flags))
    try:
        run = run_emulated(artifact.read(SELF_TEST), target)
    except VerificationError as error:
        return SelfTest(where, False, str(error))
    except CannotEmulateError as error:
        how = f"{error.how}, or run" if error.how else "run"
        elsewhere = f"{how} {artifact.path / SELF_TEST} on such a machine, which needs nothing else"
        raise MissingDependencyError(f"code for {target.name} does not run on this machine: {error.why}; {elsewhere}") from error
    return SelfTest(where, True, run.text)
