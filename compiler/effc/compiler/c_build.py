"""C sources as programs: built and run on this machine by its own C compiler, on a board of QEMU by the target's.

A compiler that refuses them and a self-test that does not pass are errors of effc. That something cannot be tried here is not.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from effc.compiler.crosscheck import SelfTestRun
from effc.compiler.scratch import run_within, scratch_folder
from effc.errors import MissingDependencyError, OutputError, VerificationError
from effc.lowering.c99.building import BOARD_MIB, emulator, library
from effc.lowering.toolchain import compiler_for, compiler_name
from effc.targets import Target, find_target

__all__ = [
    "FOLDER",
    "CannotTryError",
    "build_for_board",
    "build_here",
    "build_library",
    "c_files",
    "missing_tools",
    "run_here",
    "run_on_board",
]

FOLDER = "c"  # of an artifact
WARNINGS = ("-std=c99", "-fno-strict-aliasing", "-Wall", "-Wextra", "-Wconversion", "-pedantic")
_TIMEOUT = 600.0  # seconds, of a compiler and of an emulator
_STATUS = {1: "an output is not the program's", 2: "the model could not run, or its weights are not those that were written"}
_BEYOND_THIS_MACHINE = re.compile(r"Killed signal terminated program|No space left on device|out of memory|memory exhausted", re.IGNORECASE)


class CannotTryError(MissingDependencyError):
    """C sources cannot be built or run with what is here: no compiler, no board that is large enough, too little time or memory.

    Attributes:
        why: in a few words.
        how: what does it, elsewhere or later.
    """

    def __init__(self, why: str, how: str) -> None:
        super().__init__(f"the C sources cannot be tried: {why}; {how}")
        self.why, self.how = why, how


def c_files(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The C sources among an artifact's files, by their names in `FOLDER`."""
    return {name.removeprefix(f"{FOLDER}/"): content for name, content in files.items() if name.startswith(f"{FOLDER}/")}


def run_here(sources: Mapping[str, bytes], flags: Sequence[str] = ("-O1",)) -> SelfTestRun:
    """The self-test, built by this machine's C compiler with these flags, and run.

    Raises:
        CannotTryError: there is no C compiler, or this machine is too small or too slow.
        VerificationError: the compiler refuses the sources, or the self-test does not pass.
    """
    compiler = _compiler_here()
    with scratch_folder() as folder:
        program = build_here(sources, folder, compiler, flags)
        return _run([str(program)], folder, "this machine", " ".join([compiler_name(compiler), *flags]))


def run_on_board(sources: Mapping[str, bytes], target: Target, flags: Sequence[str] = ("-O2",)) -> SelfTestRun:
    """The self-test, built by the target's compiler and run on its board under QEMU.

    Raises:
        CannotTryError: a tool is missing or does not start, the board is too small, or this machine too slow.
        VerificationError: the compiler refuses the sources, or the self-test does not pass.
    """
    if lacking := missing_tools(target):
        raise CannotTryError(f"{', '.join(lacking)} not installed", "`make qemu` in c/ does it where they are")
    with scratch_folder() as folder:
        program = build_for_board(sources, folder, target, flags)
        return _run([*emulator(target), str(program)], folder, f"QEMU's {target.board}", " ".join([target.compiler, *flags]))


def missing_tools(target: Target) -> list[str]:
    """What this machine lacks of what a board needs."""
    return [name for name in (target.compiler, emulator(target)[0]) if shutil.which(name) is None]


def build_here(sources: Mapping[str, bytes], folder: Path, compiler: Sequence[str], flags: Sequence[str]) -> Path:
    """The self-test as a program for this machine, in a folder where the sources are written, too. Raises as `run_here`."""
    _write(sources, folder)
    names = sorted(name for name in sources if name.endswith(".c") and "/" not in name)
    _compile([*compiler, *WARNINGS, *flags, *names, "-o", "self_test"], folder)
    return folder / "self_test"


def build_library(sources: Mapping[str, bytes], folder: Path) -> Path:
    """The model as a shared library for this machine. Raises as `run_here`."""
    compiler = _compiler_here()
    _write(sources, folder)
    names = sorted(name for name in sources if name.endswith(".c") and "/" not in name and name != "test_main.c")
    _compile([*compiler, *WARNINGS, "-O1", "-shared", "-fPIC", *names, "-o", "model.so"], folder)
    return folder / "model.so"


def build_for_board(sources: Mapping[str, bytes], folder: Path, target: Target, flags: Sequence[str]) -> Path:
    """The self-test as a program for the target's board. Raises as `run_on_board`."""
    elsewhere = "the self-test, test_main.c, runs on a larger board, and `make test` in c/ runs it on this machine"
    if "qemu/board.ld" not in sources:
        has = f"{BOARD_MIB} MiB of flash and {BOARD_MIB} MiB of RAM"
        raise CannotTryError(f"the model is larger than the memory of QEMU's {target.board}, {has}", elsewhere)
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
        why = f"the model needs {int(full[2]):,} bytes more than the {BOARD_MIB} MiB that QEMU's {target.board} has of {full[1]}"
        raise CannotTryError(why, elsewhere) from error
    return folder / "self_test.elf"


def _compiler_here() -> list[str]:
    try:
        return compiler_for(find_target("cpu"), static=False)
    except MissingDependencyError as error:
        why = "no C compiler is installed: none of cc, gcc and clang, nor the ziglang wheel"
        raise CannotTryError(why, "install one, or `pip install 'effc[cross]'`; elsewhere `make test` in c/ does it") from error


def _write(sources: Mapping[str, bytes], folder: Path) -> None:
    try:
        for name, content in sources.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    except OSError as error:
        raise OutputError(f"the C sources cannot be written to {folder}, to try them: {error.strerror}; set TMPDIR") from error


def _compile(command: Sequence[str], folder: Path) -> None:
    name = compiler_name(command)
    status, _, errors = _in_time(command, folder, f"{name} did not compile them")
    said = "\n".join(errors.strip().splitlines()[:20])
    if status < 0 or _BEYOND_THIS_MACHINE.search(errors):
        raise CannotTryError(f"{name} was killed, or ran out of memory: {said[-300:]}", "`make test` in c/ does it on a larger machine")
    if status != 0:
        raise VerificationError(f"{name} refuses the C sources:\n{said}")


def _run(command: Sequence[str], folder: Path, where: str, built_by: str) -> SelfTestRun:
    status, said, errors = _in_time(command, folder, "the self-test did not end")
    # An emulator that gives up says its name first, as does what loads a program; the self-test says nothing, and its status 1 is another.
    gave_up = re.search(rf"^{re.escape(command[0])}: (?!warning: )(.*)", errors, re.MULTILINE)
    if status != 0 and gave_up is not None:
        name = Path(command[0]).name
        raise CannotTryError(f"{name} cannot run the self-test: {gave_up[1][:300]}", "make in c/ does it where that runs")
    if status != 0:
        text = " ".join((said + errors).split())[:500]
        why = _STATUS.get(status, "it crashed") + (f": {text}" if text else "")
        raise VerificationError(f"the self-test of the C sources, built by {built_by}, fails on {where} with status {status}: {why}")
    return SelfTestRun(where, f"built by {built_by}")


def _in_time(command: Sequence[str], folder: Path, late: str) -> tuple[int, str, str]:
    """Exit status, stdout, stderr. Raises CannotTryError where it cannot be started, or takes too long."""
    try:
        done = run_within(_TIMEOUT, command, folder)
    except TimeoutError as error:
        raise CannotTryError(f"{late} within {_TIMEOUT:g} s", "make in c/ has no such limit") from error
    except OSError as error:
        how = "see that it can be run; programs that are tried lie where TMPDIR says"
        raise CannotTryError(f"{command[0]} cannot be started: {error.strerror}", how) from error
    return done.returncode, done.stdout, done.stderr
