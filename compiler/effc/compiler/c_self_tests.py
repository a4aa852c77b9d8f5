"""The self-test of C sources in every place where it can run: on this machine, and on the target's board of QEMU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from effc.compiler.artifact_targets import target_of
from effc.compiler.c_build import CannotTryError, run_here, run_on_board
from effc.compiler.c_session import source_files
from effc.compiler.crosscheck import SelfTestRun
from effc.errors import MissingDependencyError, VerificationError
from effc.runtime import Artifact
from effc.runtime.verify import Verification
from effc.targets import Target, find_target

__all__ = ["SelfTest", "SourcesTrial", "artifact_self_tests", "self_tests"]


@dataclass(frozen=True)
class SelfTest:
    """What became of the self-test in one place.

    Attributes:
        where: `this machine`, or QEMU's board.
        passed: None where it did not run.
        said: which compiler built it, with which flags; why it failed; or why it did not run.
        how: what runs it elsewhere or later, where it did not run.
    """

    where: str
    passed: bool | None
    said: str
    how: str = ""

    @property
    def text(self) -> str:
        return f"{'NOT RUN: ' if self.passed is None else 'passed, ' if self.passed else ''}{self.said}"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class SourcesTrial:
    """How C sources did.

    Attributes:
        verification: the outputs of the sources, built for this machine, beside the program's on the golden inputs; None where it could
            not build them.
        self_tests: that on this machine first; none of them failed.
    """

    verification: Verification | None
    self_tests: tuple[SelfTest, ...]

    @property
    def runs(self) -> tuple[SelfTestRun, ...]:
        """Those that ran."""
        return tuple(SelfTestRun(one.where, one.text) for one in self.self_tests if one.passed)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was not tried and how to do it, one sentence each."""
        missed = tuple(f"The C sources did not run on {one.where}: {one.said}; {one.how}" for one in self.self_tests if one.passed is None)
        if self.runs or self.verification is not None:
            return missed
        return ("NOTHING HAS CHECKED that the C sources compute what the program computes: they did not run anywhere", *missed)


def self_tests(sources: Mapping[str, bytes], target: Target, unable: CannotTryError | None = None) -> tuple[SelfTest, ...]:
    """Build the self-test and run it, in all ways that this machine has.

    Args:
        sources: from `effc.lowering.c99.sources.c_sources`.
        target: what they are for.
        unable: why this machine cannot build them, where that is known.
    """
    found = [_attempt("this machine", lambda: run_here(sources)) if unable is None else _missed("this machine", unable)]
    if target.board:
        found.append(_attempt(f"QEMU's {target.board}", lambda: run_on_board(sources, target)))
    return tuple(found)


def artifact_self_tests(artifact: Artifact) -> tuple[SelfTest, ...]:
    """`self_tests` of an artifact that holds C sources, whatever effc compiled it."""
    why, how = "this effc knows no such target", "the effc that compiled it does"
    try:
        target = target_of(artifact)
    except MissingDependencyError as error:
        target, (why, _, how) = None, error.message.rpartition("; ")
    found = self_tests(source_files(artifact), target or find_target("c99"))
    if target is not None:
        return found
    return (*found, SelfTest(str(artifact.manifest.data["target"].get("name")), None, why, how))


def _attempt(where: str, run: Callable[[], SelfTestRun]) -> SelfTest:
    try:
        return SelfTest(where, True, run().text)
    except CannotTryError as error:
        return _missed(where, error)
    except VerificationError as error:
        return SelfTest(where, False, str(error))


def _missed(where: str, error: CannotTryError) -> SelfTest:
    return SelfTest(where, None, error.why, error.how)
