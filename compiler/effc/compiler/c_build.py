"""C sources are built and run before they are written, and again by `effc verify`: here, and on a board of QEMU.

On this machine by its own C compiler, on the board by the target's. What is missing is said; a program that fails is an error.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from effc.compiler.crosscheck import SelfTestRun
from effc.errors import MissingDependencyError, VerificationError
from effc.lowering.c99.building import emulator, library
from effc.lowering.toolchain import compiler_for
from effc.runtime.verify import Verification
from effc.targets import Target, find_target

__all__ = [
    "FOLDER",
    "SourcesTrial",
    "build_for_board",
    "build_here",
    "build_library",
    "c_files",
    "missing_tools",
    "run_here",
    "run_on_board",
    "run_self_tests",
]

FOLDER = "c"  # of an artifact
WARNINGS = ("-std=c99", "-fno-strict-aliasing", "-Wall", "-Wextra", "-Wconversion", "-pedantic")
_TIMEOUT = 600  # seconds, of a compiler and of an emulator
_STATUS = {1: "an output is not the program's", 2: "the model could not run, or its weights are not those that were written"}


@dataclass(frozen=True)
class SourcesTrial:
    """How C sources did.

    Attributes:
        verification: the outputs of the sources, built for this machine, beside the program's on the golden inputs; None where it has no C
            compiler.
        runs: of the self-test, that on this machine first; all of them passed.
        notes: what was not tried, and why, one sentence each.
    """

    verification: Verification | None
    runs: tuple[SelfTestRun, ...]
    notes: tuple[str, ...]


def c_files(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The C sources among an artifact's files, by their names in `FOLDER`."""
    return {name.removeprefix(f"{FOLDER}/"): content for name, content in files.items() if name.startswith(f"{FOLDER}/")}


def run_self_tests(sources: Mapping[str, bytes], target: Target) -> tuple[list[SelfTestRun], list[str]]:
    """Build the self-test and run it, in all ways that this machine has; what was not tried, and why.

    Args:
        sources: from `effc.lowering.c99.sources.c_sources`.
        target: what they are for.

    Raises:
        VerificationError: a compiler refuses them, or the self-test does not pass.
    """
    runs, notes = [], []
    try:
        runs.append(run_here(sources))
    except MissingDependencyError:
        notes.append("The C sources were not built on this machine, which has no C compiler; `make test` in c/ does that")
    if target.board:
        lacking = missing_tools(target)
        found = None if lacking else run_on_board(sources, target)
        if isinstance(found, SelfTestRun):
            runs.append(found)
        else:
            why = found if isinstance(found, str) else f"{', '.join(lacking)} not installed"
            notes.append(f"The C sources were not run for {target.name}: {why}; `make qemu` in c/ does that")
    return runs, notes


def run_here(sources: Mapping[str, bytes], flags: Sequence[str] = ("-O1",)) -> SelfTestRun:
    """The self-test, built by this machine's C compiler with these flags, and run.

    Raises:
        MissingDependencyError: there is no C compiler.
        VerificationError: it refuses the sources, or the self-test does not pass.
    """
    compiler = compiler_for(find_target("cpu"), static=False)
    with tempfile.TemporaryDirectory() as folder:
        program = build_here(sources, Path(folder), compiler, flags)
        return _run([str(program)], "this machine", Path(compiler[-1]).name)


def run_on_board(sources: Mapping[str, bytes], target: Target, flags: Sequence[str] = ("-O2",)) -> SelfTestRun | str:
    """The self-test, built by the target's compiler and run on its board under QEMU; or why the board cannot run it.

    Raises:
        VerificationError: the compiler refuses the sources, or the self-test does not pass.
    """
    with tempfile.TemporaryDirectory() as folder:
        program = build_for_board(sources, Path(folder), target, flags)
        if isinstance(program, str):
            return program
        return _run([*emulator(target), str(program)], f"QEMU's {target.board}", target.compiler)


def missing_tools(target: Target) -> list[str]:
    """What this machine lacks of what a board needs."""
    return [name for name in (target.compiler, emulator(target)[0]) if shutil.which(name) is None]


def build_here(sources: Mapping[str, bytes], folder: Path, compiler: Sequence[str], flags: Sequence[str]) -> Path:
    """The self-test as a program for this machine, in a folder where the sources are written, too. Raises VerificationError."""
    _write(sources, folder)
    names = sorted(name for name in sources if name.endswith(".c") and "/" not in name)
    _compile([*compiler, *WARNINGS, *flags, *names, "-o", "self_test"], folder)
    return folder / "self_test"


def build_library(sources: Mapping[str, bytes], folder: Path, compiler: Sequence[str]) -> Path:
    """The model as a shared library for this machine. Raises VerificationError."""
    _write(sources, folder)
    names = sorted(name for name in sources if name.endswith(".c") and "/" not in name and name != "test_main.c")
    _compile([*compiler, *WARNINGS, "-O1", "-shared", "-fPIC", *names, "-o", "model.so"], folder)
    return folder / "model.so"


def build_for_board(sources: Mapping[str, bytes], folder: Path, target: Target, flags: Sequence[str]) -> Path | str:
    """The self-test as a program for the target's board; or why it does not fit there. Raises VerificationError."""
    _write(sources, folder)
    names = sorted(name for name in sources if name.endswith(".c"))
    board = ["-nostartfiles", "-Tqemu/board.ld", "-Wl,--gc-sections"]
    command = [target.compiler, *WARNINGS, *flags, *target.flags, *library(target), *names, "-o", "self_test.elf", *board]
    try:
        _compile(command, folder)
    except VerificationError as error:
        full = re.search(r"region `?(\w+)'? overflowed by (\d+) bytes", str(error))
        if full is None:
            raise
        return f"{int(full[2]):,} bytes too many for the 4 MiB that {target.board} has of {full[1]}"
    return folder / "self_test.elf"


def _write(sources: Mapping[str, bytes], folder: Path) -> None:
    for name, content in sources.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _compile(command: Sequence[str], folder: Path) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=_TIMEOUT)
    except subprocess.TimeoutExpired as error:
        raise VerificationError(f"{command[0]} did not compile the C sources within {_TIMEOUT} s") from error
    if done.returncode != 0:
        said = "\n".join(done.stderr.strip().splitlines()[:20])
        raise VerificationError(f"{command[0]} refuses the C sources:\n{said}")


def _run(command: Sequence[str], where: str, compiler: str) -> SelfTestRun:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT)
    except subprocess.TimeoutExpired as error:
        raise VerificationError(f"the self-test of the C sources did not end on {where} within {_TIMEOUT} s") from error
    if done.returncode != 0:
        said = " ".join((done.stdout + done.stderr).split())[:500]
        why = _STATUS.get(done.returncode, "it crashed") + (f": {said}" if said else "")
        which = f"the self-test of the C sources, built by {compiler},"
        raise VerificationError(f"{which} fails on {where} with status {done.returncode}: {why}")
    return SelfTestRun(where, f"passed, built by {compiler}")
