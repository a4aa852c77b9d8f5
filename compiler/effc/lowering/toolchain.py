"""The tools of the system. Linking: the C compiler where it serves the target, else the `ziglang` wheel, else one clear error.

What has no operating system is linked by the compiler that the target names (clang with lld, for Hexagon), without any library.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from effc.errors import EffcWarning, MissingDependencyError, Problem, UnsupportedModelError
from effc.targets import Target
from effc.targets.emulators import emulator_for

__all__ = ["compiler_for", "compiler_name", "emulator_for", "link_shared", "link_static"]

_PATIENCE = 5.0  # seconds; zig links in two when its C library is built
_CLANGS = range(24, 13, -1)  # versions of clang that know Hexagon's v67, newest first
_ZIG = {"x86_64": "x86_64-linux", "aarch64": "aarch64-linux", "riscv64": "riscv64-linux"}


def link_shared(objects: Sequence[bytes], target: Target) -> bytes:
    """A shared library from object files. Same input, same bytes. Raises MissingDependencyError without a linker."""
    with tempfile.TemporaryDirectory() as folder:
        sources, result = _write(objects, folder), Path(folder, "model.so")
        # A relative name and no build id: the folder's random name must not reach the bytes. Stripped: TVM adds debug information.
        libraries = ["-lm"] if target.hosted else []
        command = [*compiler_for(target, static=False), "-shared", "-s", "-Wl,--build-id=none", "-o", result.name, *sources, *libraries]
        _run(command, folder, target)
        return result.read_bytes()


def link_static(objects: Sequence[bytes], sources: Sequence[Path], files: Mapping[str, str | bytes], target: Target) -> bytes:
    """A static executable of object files, C sources and what they include, for a machine without effc.

    Args:
        objects: contents of object files.
        sources: C sources and headers.
        files: generated files that the sources include, by name.
        target: what to link for. Without an operating system, `sources` bring the C library, and there are no threads.
    """
    with tempfile.TemporaryDirectory() as folder:
        names = _write(objects, folder)
        for name, content in files.items():
            Path(folder, name).write_bytes(content.encode() if isinstance(content, str) else content)
        for source in sources:
            shutil.copy(source, folder)
        flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-static", "-s", "-Wl,--build-id=none", "-I."]
        names += [source.name for source in sources if source.suffix == ".c"]
        system = ["-lm", "-lpthread"] if target.hosted else ["-ffreestanding", "-DEFFC_SERIAL"]
        _run([*compiler_for(target, static=True), *flags, *names, "-o", "selftest", *system], folder, target)
        return Path(folder, "selftest").read_bytes()


def _write(objects: Sequence[bytes], folder: str) -> list[str]:
    names = [f"model{index}.o" for index in range(len(objects))]
    for name, content in zip(names, objects, strict=True):
        Path(folder, name).write_bytes(content)
    return names


def compiler_for(target: Target, *, static: bool) -> list[str]:
    """The command that compiles C and links for the target: `cc`, a cross gcc, zig, or what a target without an operating system names.

    Args:
        target: what the code is for.
        static: link without the target's shared C library (zig then brings musl).
    """
    if not target.hosted and target.compiler:
        return _bare_compiler(target)
    machine = os.uname().machine
    architecture = target.architecture or machine
    if architecture == machine:
        names = ["cc", "gcc", "clang"]
    else:
        names = [f"{architecture}-linux-gnu-gcc"]
    for name in names:
        if shutil.which(name):
            return [name]
    if importlib.util.find_spec("ziglang") is not None and architecture in _ZIG:
        library = "musl" if static else "gnu"
        return [sys.executable, "-m", "ziglang", "cc", "-target", f"{_ZIG[architecture]}-{library}"]
    raise MissingDependencyError(
        f"no linker for target {target.name}: none of {', '.join(names)} is on the PATH and the ziglang wheel is not installed; "
        "install a C compiler for it, or `pip install 'effc[cross]'`"
    )


def _bare_compiler(target: Target) -> list[str]:
    """The target's clang, under its plain name or, as distributions call it, with its version, and the linker of that version."""
    names = [target.compiler, *(f"{target.compiler}-{version}" for version in _CLANGS)]
    found = [name for name in names if shutil.which(name)]
    lacking = {name: _lacking(name, target.flags) for name in found}
    for name, lack in lacking.items():
        if not lack:
            return [name, *target.flags, "-fuse-ld=lld", "-nostdlib", "-Wl,--error-limit=0"]
    why = "; ".join(f"{name} is on the PATH, but {lack}" for name, lack in lacking.items())
    why = why or f"neither {target.compiler} nor {names[-1]} is on the PATH"
    oldest = f"{_CLANGS[-1]} or later"
    raise MissingDependencyError(
        f"no linker for target {target.name}: {why}; install clang and lld of one version, {oldest} (Debian: clang lld)"
    )


@functools.cache
def _lacking(clang: str, flags: tuple[str, ...]) -> str:
    """Why a clang does not serve, tried on an empty file; empty where it does."""
    if not _has_lld(clang):
        return "has no linker (ld.lld)"
    try:
        command = [clang, *flags, "-x", "c", "-c", os.devnull, "-o", os.devnull]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said = subprocess.run([clang, "-dumpversion"], capture_output=True, text=True, check=False).stdout.strip()
    except OSError as error:
        return f"does not start ({error.strerror})"
    major = re.match(r"\d+", said)
    if major is None or int(major[0]) < _CLANGS[-1]:
        return f"is of version {said or 'unknown'}, which is too old"
    if done.returncode != 0:
        return f"does not compile with {' '.join(flags)}: {' '.join(done.stderr.split())[:200]}"
    return ""


@functools.cache
def _has_lld(clang: str) -> bool:
    """Whether the clang has the linker of its own version."""
    asked = subprocess.run([clang, "-print-prog-name=ld.lld"], capture_output=True, text=True, check=False)
    return shutil.which(asked.stdout.strip()) is not None


def compiler_name(command: Sequence[str]) -> str:
    """What a command that begins as `compiler_for` says is called in messages: zig is run by Python."""
    return "zig cc" if "ziglang" in command else Path(command[0]).name


def _run(command: Sequence[str], folder: str, target: Target) -> None:
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            errors = _errors(process, target.name if "ziglang" in command else "")
        except BaseException:  # whoever waits was interrupted
            process.kill()
            raise
    missing = sorted(set(re.findall(r"undefined symbol: (\S+)", errors)))
    if missing and not target.hosted:
        hint = "replace the operators that need them, or ask for them in an issue"
        problems = [Problem("the compiled code", name, "is a function of a C library that effc does not bring", hint) for name in missing]
        raise UnsupportedModelError(f"target {target.name}: there is no C library, and the program needs one", problems)
    if process.returncode != 0:
        raise MissingDependencyError(f"linking failed: {' '.join(command)}\n{errors.strip()}")


def _errors(process: subprocess.Popen[str], zig_for: str) -> str:
    """What it writes to stderr until it ends. Zig takes long when it has no C library for the target yet, and says nothing meanwhile."""
    try:
        return process.communicate(timeout=_PATIENCE if zig_for else None)[1]
    except subprocess.TimeoutExpired:
        _say_why(zig_for)
        return process.communicate()[1]


@functools.cache
def _say_why(target: str) -> None:
    """Once, although the library and the self-test are linked against different C libraries."""
    warnings.warn(f"the first build for {target} takes about a minute: zig builds its C library", EffcWarning, stacklevel=2)
