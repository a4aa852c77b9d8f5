"""C code of an extension as object files for its target, checked to be whole before anything of effc's own is linked to it."""

from __future__ import annotations

import re
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from effc.errors import MissingDependencyError, Problem
from effc.lowering.elf import dynamic_symbols
from effc.lowering.extensions import Composite, ExternalCode, origin_of
from effc.lowering.toolchain import compiler_for
from effc.targets import Target

__all__ = ["compiled_externals"]

_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")  # in one folder, and no flag of the compiler
_FLAGS = ("-std=c11", "-O2", "-fPIC", "-g0", "-c")
_LINES = 20  # of what a compiler says
_RELOCATABLE = 1  # ELF's type of an object file
_KINDS = {2: "a program", 3: "a shared library"}  # other types of ELF


def compiled_externals(code: ExternalCode, composites: Sequence[Composite], target: Target) -> tuple[bytes, ...]:
    """The objects of the code's sources, and those that it brings; same input, same bytes.

    Args:
        code: from an extension.
        composites: whose C functions it must define.
        target: compiled for.

    Raises:
        MissingDependencyError: no compiler; or the code is malformed, does not compile, or lacks a function or what one calls.
    """
    who = origin_of(target)
    problems = list(_malformed(code))
    if problems:
        raise MissingDependencyError(f"{who}: its codegen gives no code that can be built", problems)
    command = [*compiler_for(target, static=False), *target.flags]
    with tempfile.TemporaryDirectory() as folder:
        for name, text in code.sources.items():
            Path(folder, name).write_text(text, encoding="utf-8")
        built = []
        for name in sorted(name for name in code.sources if name.endswith(".c")):
            _run([*command, *_FLAGS, *code.flags, "-I.", name, "-o", f"{name}.o"], folder, f"{who}: {name} of its code does not compile")
            built.append(f"{name}.o")
        objects = [Path(folder, name).read_bytes() for name in built]
        for number, content in enumerate(code.objects):
            Path(folder, f"given{number}.a").write_bytes(content)
        names = [*built, *(f"given{number}.a" for number in range(len(code.objects)))]
        if target.hosted:
            wanted = [f"-Wl,-u,{one.symbol}" for one in composites]  # takes them out of archives
            whole = ["-shared", "-Wl,-z,defs", *wanted, "-o", "whole.so", *names, "-lm", "-lpthread"]
            _run([*command, *whole], folder, f"{who}: its code does not link")
            defined = dynamic_symbols(Path(folder, "whole.so").read_bytes())
            missing = [one for one in composites if one.symbol not in defined]
            if missing:
                why = "is not defined, or hidden"
                listed = [Problem(f"pattern {one.pattern}", one.symbol, why, f"define {one.prototype}") for one in missing]
                raise MissingDependencyError(f"{who}: its code lacks functions that it was asked for", listed)
        return (*objects, *code.objects)


def _malformed(code: ExternalCode) -> Iterator[Problem]:
    """Everything about it that nothing can be built from."""
    wrong = [(name, "a dict of texts") for name in ("sources", "notes") if not isinstance(getattr(code, name), Mapping)]
    for name, wanted in (("objects", "a tuple of bytes"), ("flags", "a tuple of texts")):
        wrong += [(name, wanted)] if not isinstance(getattr(code, name), tuple | list) else []
    if wrong:
        yield from (
            Problem(name, f"a {type(getattr(code, name)).__name__}", "is of the wrong type", f"give {wanted}") for name, wanted in wrong
        )
        return
    for name, text in code.sources.items():
        if not isinstance(name, str) or not _FILE.fullmatch(name):
            yield Problem("sources", repr(name), "is no plain file name", "letters, digits and _ . -, no folder")
        if not isinstance(text, str):
            yield Problem("sources", repr(name), f"holds a {type(text).__name__}", "give the text")
    yield from (Problem("flags", repr(one), f"is a {type(one).__name__}", "give texts") for one in code.flags if not isinstance(one, str))
    for index, content in enumerate(code.objects):
        why = _no_object(content)
        if why:
            yield Problem("objects", str(index), why, "give the bytes of an object file (.o) or of a static archive (.a)")
    if not any(str(name).endswith(".c") for name in code.sources) and not code.objects:
        yield Problem("sources", "nothing", "is to be compiled, and there are no objects")


def _no_object(content: object) -> str:
    """Why bytes are neither an object file nor an archive that holds its members; empty where they may be."""
    if not isinstance(content, bytes):
        return f"is a {type(content).__name__}"
    if content.startswith(b"!<thin>\n"):
        return "is a thin archive, which only names files elsewhere"
    if content.startswith(b"!<arch>\n"):
        return ""
    if not content.startswith(b"\x7fELF") or len(content) < 18:
        return f"is neither ELF nor an archive: it begins with {content[:8]!r}"
    (kind,) = struct.unpack_from("<H" if content[5] == 1 else ">H", content, 16)
    return "" if kind == _RELOCATABLE else f"is {_KINDS.get(kind, 'ELF of another type')}"


def _run(command: Sequence[str], folder: str, what: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise MissingDependencyError("\n".join([f"{what}: {' '.join(command)}", *said[:_LINES]]))
