"""Builds of an artifact's `c/` folder, and what can be read off them: sizes, stack, and names from outside.

Only the two files that a user takes (`effc_NAME.c`, `effc_NAME_weights.c`) are measured; the self-test and its vectors are not.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from effc.errors import EffcError
from effc.lowering.c99.building import emulator
from effc.lowering.c99.printer import HELPERS
from effc.targets import find_target

__all__ = ["MACHINES", "STRICT", "Built", "Files", "Machine", "ToolError", "built", "command", "longest_path", "outside", "self_test"]

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-pedantic")
PATIENCE = 300  # seconds for one tool


class ToolError(EffcError):
    """A compiler or an emulator failed; the message is what it said."""


@dataclass(frozen=True)
class Machine:
    """What C is built for.

    Attributes:
        name: in tables.
        target: effc's name of it.
        compiler, flags: of gcc.
        board: QEMU's name of the board; empty where `emulator` runs a program of this kind, or nothing has to.
        emulator: of Linux programs.
    """

    name: str
    target: str
    compiler: str
    flags: tuple[str, ...]
    board: str = ""
    emulator: str = ""

    def missing(self) -> str:
        """Which of its tools this machine lacks; empty where it has all."""
        needed = (self.compiler, emulator(find_target(self.target))[0] if self.board else self.emulator)
        absent = [tool for tool in needed if tool and not shutil.which(tool)]
        return f"not installed: {', '.join(absent)}" if absent else ""

    def tool(self, name: str) -> str:
        """Another tool of the compiler's set, `size` or `nm`."""
        return f"{self.compiler.removesuffix('gcc')}{name}"


def _board(name: str, *more: str) -> Machine:
    target = find_target(name)
    return Machine(name, name, target.compiler, (*target.flags, *more), board=target.board)


SANITIZED = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1")
MACHINES = {
    "cortex-m4": _board("cortex-m4"),
    "cortex-m7": _board("cortex-m7"),
    "sanitized": Machine("this machine, ASan and UBSan", "c99", "gcc", SANITIZED),
    "riscv64": Machine("RISC-V Linux", "c99", "riscv64-linux-gnu-gcc", ("-static",), emulator="qemu-riscv64"),
    "riscv32": _board("riscv32", "--specs=picolibc.specs"),
}


@dataclass(frozen=True)
class Files:
    """The C of an artifact: `folder` is its `c/`, `name` what its functions begin with (`effc_digits`)."""

    folder: Path
    name: str

    @classmethod
    def of(cls, artifact: Path) -> Files:
        (weights,) = (artifact / "c").glob("effc_*_weights.c")
        return cls(artifact / "c", weights.name.removesuffix("_weights.c"))

    @property
    def macros(self) -> str:
        """What its macros begin with."""
        return self.name.upper()

    @property
    def arena(self) -> int:
        """Bytes of the arena, as the header says."""
        found = re.search(rf"#define {self.macros}_ARENA_BYTES (\d+)u", (self.folder / f"{self.name}.h").read_text())
        assert found is not None
        return int(found[1])

    def code(self) -> tuple[Path, Path]:
        """The two files that a user takes."""
        return self.folder / f"{self.name}.c", self.folder / f"{self.name}_weights.c"


@dataclass(frozen=True)
class Built:
    """Bytes of a build, and what it needs.

    Attributes:
        weights: of the file with the weights, in flash.
        code: of everything else in flash: the code and its constants, and what it takes from the compiler's library.
        writable: initialised and other variables; effc's code has none.
        stack: the longest path from the entry: its frame, the largest kernel's and the largest helper's.
        outside: names that it takes from elsewhere.
    """

    weights: int
    code: int
    writable: int
    stack: int
    outside: tuple[str, ...]


def command(words: Sequence[str | Path], folder: Path) -> str:
    """Run a tool; its standard output. Raises ToolError."""
    done = subprocess.run([str(word) for word in words], cwd=folder, capture_output=True, text=True, check=False, timeout=PATIENCE)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[:800]
        raise ToolError(f"{' '.join(str(word) for word in words)}: exit code {done.returncode}: {said}")
    return done.stdout


def built(files: Files, machine: Machine, folder: Path) -> Built:
    """Build the two files with all warnings as errors, and measure."""
    folder.mkdir(parents=True, exist_ok=True)
    objects = []
    for source in files.code():
        objects.append(folder / f"{source.stem}.o")
        flags = (*STRICT, "-O2", "-fstack-usage", *machine.flags, f"-I{files.folder}")
        command([machine.compiler, *flags, "-c", source, "-o", objects[-1]], folder)
    code, weights = (_sections(machine, one, folder) for one in objects)
    link = (
        "-nostartfiles",
        "-T",
        files.folder / "qemu" / "board.ld",
        f"-Wl,-e,{files.name}_run",
        "-Wl,--no-gc-sections",
        "-Wl,--build-id=none",
    )
    whole = folder / "whole.elf"
    command([machine.compiler, *machine.flags, *link, *objects, "-o", whole], folder)
    linked = _sections(machine, whole, folder)
    flash = sum(code) + sum(weights)
    taken = max(0, linked[0] - code[0] - weights[0])  # from libgcc and memcpy
    names = command([machine.tool("nm"), "-u", *objects], folder)
    used = {match[1] for match in re.finditer(r"^\s+U (\S+)$", names, re.MULTILINE)}
    defined = {match[1] for match in re.finditer(r"^\S+ [A-Z] (\S+)$", command([machine.tool("nm"), *objects], folder), re.MULTILINE)}
    return Built(
        weights=sum(weights),
        code=flash - sum(weights) + taken,
        writable=code[1] + code[2] + weights[1] + weights[2],
        stack=longest_path((folder / f"{files.name}.su").read_text(), files.name),
        outside=tuple(sorted(used - defined)),
    )


def self_test(files: Files, machine: Machine, folder: Path) -> int:
    """Build the self-test that lies beside the C with the Makefile that lies there, and run it; its exit code. Raises ToolError."""
    shutil.copytree(files.folder, folder)
    if machine.board:
        command(["make", "self_test.elf", f"TARGET_CC={machine.compiler}", "CFLAGS=-O2 -Werror"], folder)
        words = [*emulator(find_target(machine.target)), "self_test.elf"]
    else:
        command(["make", "self_test", f"CC={machine.compiler}", f"CFLAGS={' '.join(('-O2', '-Werror', *machine.flags))}"], folder)
        words = [*([machine.emulator] if machine.emulator else []), "./self_test"]
    return subprocess.run(words, cwd=folder, capture_output=True, check=False, timeout=PATIENCE).returncode


def outside(names: Sequence[str]) -> list[str]:
    """Of the names that code takes from elsewhere, those that are neither the compiler's own nor memcpy and memset."""
    return [name for name in names if not name.startswith("__") and name not in ("memcpy", "memset")]


def longest_path(usage: str, name: str) -> int:
    """Bytes of stack from gcc's `.su` file: the frame of `NAME_run`, the largest kernel's and the largest helper's."""
    frames: dict[str, int] = {}
    for line in usage.splitlines():
        where, size, kind = line.split("\t")
        if kind != "static":
            raise ToolError(f"the stack of {where} is {kind}, not static")
        frames[where.rsplit(":", 1)[-1].partition(".")[0]] = int(size)  # gcc's own variants are called kernel.constprop
    if f"{name}_run" not in frames:
        raise ToolError(f"no stack usage of {name}_run")
    helpers = [size for function, size in frames.items() if function in HELPERS]
    kernels = [size for function, size in frames.items() if function not in HELPERS and not function.startswith(f"{name}_")]
    return frames[f"{name}_run"] + max(kernels, default=0) + max(helpers, default=0)


def _sections(machine: Machine, path: Path, folder: Path) -> tuple[int, int, int]:
    """Bytes of text (with constants), data and bss."""
    numbers: Mapping[int, str] = dict(enumerate(command([machine.tool("size"), path], folder).splitlines()[1].split()))
    return int(numbers[0]), int(numbers[1]), int(numbers[2])
