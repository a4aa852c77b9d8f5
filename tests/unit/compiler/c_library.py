"""An artifact's C as a library of this machine, built with all warnings as errors, for tests that call it."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from effc.compiler import CompileResult
from effc.runtime.tensors import Array, dtype_named

__all__ = ["CLibrary", "make", "needs_board", "needs_compiler"]

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-pedantic", "-O1")
SANITIZED = "-O0 -Werror -fsanitize=address,undefined -fno-sanitize-recover=all"
needs_compiler = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
_LACKING = [name for name in ("arm-none-eabi-gcc", "qemu-system-arm", "make") if shutil.which(name) is None]
needs_board = pytest.mark.skipif(bool(_LACKING), reason=f"not installed: {', '.join(_LACKING)}")


def make(folder: Path, *goals: str) -> None:
    """Run make in an artifact's `c/`; what it says is in the failure."""
    done = subprocess.run(["make", *goals], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


class CLibrary:
    """The API of `effc_NAME.h`, with an arena and states of its own.

    Args:
        result: of a compile for a target that gets C.
        folder: for the library.
        damage: bytes of the library that are replaced before it is loaded, and by what.
        like: one whose code is taken instead of building it again.
    """

    def __init__(
        self, result: CompileResult, folder: Path, *, damage: tuple[bytes, bytes] | None = None, like: CLibrary | None = None
    ) -> None:
        plan = result.manifest.plan
        assert plan is not None
        (weights,) = (result.path / "c").glob("effc_*_weights.c")
        self.plan, self.name = plan, weights.name.removesuffix("_weights.c")
        self.code: ctypes.CDLL = _built([weights.with_name(f"{self.name}.c"), weights], folder, damage) if like is None else like.code
        self.arena = np.full(plan.arena_bytes + 64, 0xFF, np.uint8)
        self.states = np.full(plan.state_bytes + 64, 0xFF, np.uint8)  # init sets them
        self.init()

    def init(self) -> None:
        self._call("init", _aligned(self.arena), ctypes.c_size_t(self.plan.arena_bytes), *self._kept())

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        given = [np.ascontiguousarray(inputs[one.name], dtype_named(one.dtype)) for one in self.plan.in_room("input")]
        outputs = {one.name: np.zeros(one.shape, dtype_named(one.dtype)) for one in self.plan.in_room("output")}
        self._call("run", _aligned(self.arena), *self._kept(), *(ctypes.c_void_p(one.ctypes.data) for one in (*given, *outputs.values())))
        return outputs

    def check_weights(self) -> int:
        return int(getattr(self.code, f"{self.name}_check_weights")())

    def _kept(self) -> list[ctypes.c_void_p]:
        return [_aligned(self.states)] if self.plan.state_bytes else []

    def _call(self, function: str, *arguments: ctypes.c_void_p | ctypes.c_size_t) -> None:
        assert getattr(self.code, f"{self.name}_{function}")(*arguments) == 0


def _built(sources: list[Path], folder: Path, damage: tuple[bytes, bytes] | None) -> ctypes.CDLL:
    library = folder / "model.so"
    words = ["gcc", *STRICT, "-shared", "-fPIC", *map(str, sources), "-o", str(library)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if damage is not None:
        content = library.read_bytes()
        assert content.count(damage[0]) == 1
        library.write_bytes(content.replace(*damage))
    return ctypes.CDLL(str(library))


def _aligned(block: Array) -> ctypes.c_void_p:
    return ctypes.c_void_p(block.ctypes.data + -block.ctypes.data % 64)
