"""C99 of kernels, compiled with the host's compiler and run step by step in one arena, as the driver does it."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effc.ir import Program
from effc.lowering.c99.printer import HELPERS
from effc.lowering.kernels import Options
from effc.lowering.lower import Lowered, lower
from effc.runtime.tensors import dtype_named
from effc.targets import find_target

__all__ = ["Array", "Stream", "lowered", "needs_compiler", "run"]

Array = np.ndarray[Any, Any]
_WARNINGS = "-Wall -Wextra -Wconversion -Werror -pedantic"
_FLAGS = f"-std=c99 -fno-strict-aliasing -O1 {_WARNINGS} -fsanitize=undefined -fno-sanitize-recover=all -shared -fPIC"
needs_compiler = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")


def lowered(program: Program) -> Lowered:
    return lower(program, find_target("c99"), options=Options())


def run(code: Lowered, inputs: dict[str, Array]) -> dict[str, Array]:
    """Outputs by name. Every buffer of the arena lies where the plan says; at first it is full of 0xA5."""
    return Stream(code).frame(inputs)


class Stream:
    """Calls one after the other, with what is kept between them in plain sight: `states` by name, zeros at first."""

    def __init__(self, code: Lowered) -> None:
        assert code.plan is not None
        self.code, self.plan = code, code.plan
        self.states = {one.name: np.zeros(one.shape, dtype_named(one.dtype)) for one in code.plan.in_room("state")}
        with tempfile.TemporaryDirectory() as folder:
            self.library = _compiled(code, Path(folder))

    def frame(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """Outputs by name; the arena is full of 0xA5 before."""
        arena = np.full(self.plan.arena_bytes + 64, 0xA5, np.uint8)
        start = -arena.ctypes.data % 64
        held: dict[str, Array] = dict(self.states)
        for buffer in self.plan.buffers:
            dtype = dtype_named(buffer.dtype)
            if buffer.room == "arena":
                held[buffer.name] = arena[start + buffer.offset :]
            elif buffer.room == "input":
                held[buffer.name] = np.array(inputs[buffer.name], dtype)  # a copy, in C order
            elif buffer.room == "parameter":
                held[buffer.name] = np.ascontiguousarray(self.code.parameters[buffer.name])
            elif buffer.room == "output":
                held[buffer.name] = np.zeros(buffer.shape, dtype)
        left = list(self.plan.steps)
        while left:
            step = left.pop(0)
            getattr(self.library, step.kernel)(*(ctypes.c_void_p(held[name].ctypes.data) for name in (*step.reads, *step.writes)))
            if self.plan.fresh and step is self.plan.steps[0] and int(self.states[self.plan.clock][0]) == 1:
                left = list(self.plan.fresh)  # the first step has set the clock: this frame is computed whole
        return {buffer.name: held[buffer.name] for buffer in self.plan.in_room("output")}


def _compiled(code: Lowered, folder: Path) -> ctypes.CDLL:
    helpers = sorted({helper for function in code.functions for helper in function.helpers})
    includes = "".join(f"#include <{name}.h>\n" for name in ("math", "stdbool", "stdint", "string"))
    texts = [function.text.replace("static void", "void", 1) for function in code.functions]
    declared = [text.split(" {")[0] + ";\n" for text in texts]
    source, library = folder / "kernels.c", folder / "kernels.so"
    source.write_text(includes + "".join(HELPERS[helper] for helper in helpers) + "".join(declared) + "".join(texts))
    done = subprocess.run(["gcc", *_FLAGS.split(), str(source), "-o", str(library)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:4000]
    return ctypes.CDLL(str(library))
