"""Artifacts whose code this machine cannot run, verified: their self-test runs under the target's emulator, CUDA C runs on the CPU."""

from __future__ import annotations

import re
from dataclasses import dataclass

from effc.compiler.artifact_targets import target_of
from effc.compiler.c_self_tests import SelfTest
from effc.compiler.comparing import first_divergence, is_own_source, joined, parts_of, samples_in, top1
from effc.compiler.crosscheck import CannotEmulateError, run_emulated
from effc.compiler.cuda_trial import cannot_emulate, gpu_here, run_on_cpu
from effc.compiler.golden import run_program
from effc.compiler.verdict import Finding, Verdict, is_exact
from effc.data import Dataset
from effc.errors import MissingDependencyError, VerificationError
from effc.ir import Program
from effc.runtime import Artifact, Verification
from effc.runtime.artifact import SELF_TEST
from effc.runtime.cuda.executor import CUBIN, SOURCE
from effc.runtime.executor import CODE
from effc.runtime.verify import TOLERANCE, Difference, compare
from effc.targets import Target

__all__ = ["CodeElsewhere", "foreign_target", "lacks_gpu", "of_foreign", "verdict_elsewhere", "without_gpu"]


def foreign_target(artifact: Artifact) -> Target | None:
    """The target of an artifact with a self-test, because its code is for another machine; None where its code may be loaded here.

    Raises:
        MissingDependencyError: the target is of a package that is not installed, or broken.
    """
    if SELF_TEST not in artifact.manifest.files:
        return None
    target = target_of(artifact)
    return None if target is None or target.runs_here else target


@dataclass(frozen=True)
class CodeElsewhere:
    """What was found of code that this machine does not run.

    Attributes:
        findings: golden outputs, or the self-test. notes: what was run, and what was not.
        tests: the self-test, where there is one.
    """

    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    tests: tuple[SelfTest, ...] = ()


def of_foreign(artifact: Artifact, target: Target) -> CodeElsewhere:
    """Whether the code of an artifact for another processor passes its self-test.

    Raises:
        MissingDependencyError: the target has no emulator on this machine, or that breaks.
    """
    test = _self_test(artifact, target)
    worst = _LARGEST.search(test.said) if test.passed else None
    difference = Difference("self-test", float(worst[1]) if worst else float("inf"), None, "" if test.passed else test.said)
    found = Finding(f"self-test of the code, under {test.where}", Verification((difference,), TOLERANCE), 1, None, True)
    return CodeElsewhere((found,), (f"{CODE} itself was not loaded: the self-test is linked from the same object files",), (test,))


def lacks_gpu(artifact: Artifact) -> bool:
    """Whether the code is for a GPU that this machine does not have."""
    return artifact.manifest.executor == "cuda" and not gpu_here(str(artifact.manifest.data["target"].get("cpu", "")))


def without_gpu(artifact: Artifact, program: Program) -> CodeElsewhere:
    """Whether the CUDA C of an artifact for a GPU, run on this machine's CPU, gives its golden outputs; `program` is the artifact's own.

    Raises:
        MissingDependencyError: the CPU does not run it, either.
        VerificationError: it lacks a barrier.
    """
    name, why = artifact.manifest.data["target"].get("name"), cannot_emulate(artifact)
    if why:
        raise MissingDependencyError(
            f"{artifact.path} was compiled for {name}, this machine has no such GPU, and its CPU does not run it: {why}"
        )
    ran = run_on_cpu(artifact, program)
    found = [Finding(f"{SOURCE} on this machine's CPU against golden outputs", ran.golden, ran.samples, None, True)]
    if ran.resets is not None:
        what = f"{SOURCE} as a stream against itself with a reset before every frame, bit for bit"
        found.append(Finding(what, ran.resets, ran.samples, None, True))
    return CodeElsewhere(tuple(found), (f"{CUBIN} was not run, for want of such a GPU: {SOURCE} is what it was compiled from",))


def verdict_elsewhere(
    artifact: Artifact, code: CodeElsewhere, program: Program, original: Program | None, dataset: Dataset | None
) -> Verdict:
    """The code as far as it was run, and the artifact's own program in its place for everything else.

    Args:
        artifact: with code for another machine. code: what was found of that.
        program: its own. original: the source, where that was given. dataset: samples, where they were.
    """
    manifest, specs = artifact.manifest, list(artifact.manifest.data["passes"])
    inputs, outputs = artifact.golden()
    count, notes = samples_in(manifest, inputs, manifest.frame_inputs), list(code.notes)
    findings = [
        *code.findings,
        Finding("golden outputs against its own program", compare(outputs, run_program(program, inputs)), count, None, True),
    ]
    diverging = ""
    if original is not None:
        expected = run_program(original, inputs)
        diverging, exact = first_divergence(artifact, expected, specs)
        findings.append(Finding("golden outputs against the source", compare(outputs, expected), count, top1(outputs, expected), exact))
    if original is not None and dataset is not None:
        mine, theirs = (joined([run_program(one, dict(part.inputs)) for part in parts_of(program, dataset)]) for one in (program, original))
        exact = all(map(is_exact, specs))
        findings.append(Finding("its own program against the source, data", compare(mine, theirs), len(dataset), top1(mine, theirs), exact))
    if dataset is not None:
        also = "" if original is not None else "; they serve to compare its program with a source: give --source"
        notes.append(f"the code was not run on the data: this machine cannot{also}")
    lossy = tuple(spec for spec in specs if not is_exact(spec))
    return Verdict(tuple(findings), diverging, lossy, tuple(notes), is_own_source(artifact, original), code.tests)


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
