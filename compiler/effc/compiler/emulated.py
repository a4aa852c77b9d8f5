"""Artifacts whose code this machine cannot run: their self-test under the target's emulator takes its place when they are verified."""

from __future__ import annotations

import re
from collections.abc import Sequence

from effc.compiler.artifact_targets import target_of
from effc.compiler.c_self_tests import SelfTest
from effc.compiler.crosscheck import CannotEmulateError, run_emulated
from effc.compiler.golden import run_program
from effc.compiler.verdict import Finding, Verdict, is_exact
from effc.errors import MissingDependencyError, VerificationError
from effc.ir.storage import load_program_bytes
from effc.runtime import Artifact, Verification
from effc.runtime.artifact import SELF_TEST
from effc.runtime.executor import CODE
from effc.runtime.verify import TOLERANCE, Difference, compare
from effc.targets import Target

__all__ = ["foreign_target", "verdict_of_foreign"]


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
    program = load_program_bytes(artifact.read("program.pt2"), name="program.pt2")
    inputs, outputs = artifact.golden()
    count = max((len(array) for array in inputs.values() if array.ndim), default=1)
    worst = _LARGEST.search(test.said) if test.passed else None
    difference = Difference("self-test", float(worst[1]) if worst else float("inf"), None, "" if test.passed else test.said)
    findings = (
        Finding(f"self-test of the code, under {test.where}", Verification((difference,), TOLERANCE), 1, None, True),
        Finding("golden outputs against its own program", compare(outputs, run_program(program, inputs)), count, None, True),
    )
    lossy = tuple(spec for spec in artifact.manifest.data["passes"] if not is_exact(spec))
    notes = [f"{CODE} itself was not loaded: the self-test is linked from the same object files"]
    notes += [f"not compared with {what}: code for {target.name} does not run on this machine" for what in left_out]
    return Verdict(findings, "", lossy, tuple(notes), True, (test,))


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
