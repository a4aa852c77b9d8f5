"""The CUDA C of a model on this machine's CPU: its threads are fibers (`runtime/native/cuda_on_host.h`).

It shows that the code computes what it should, in whatever order its threads run. It says nothing of a GPU's speed, and is some ten
thousand times slower than one.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from effc.errors import InternalError, MissingDependencyError
from effc.runtime.plan import Launch
from effc.runtime.tensors import Array

__all__ = ["EmulatedDriver", "Emulation", "host_compiler", "host_library", "host_source"]

_KERNEL = re.compile(r"__global__ void (?:__launch_bounds__\([^)]*\)\s+)?(\w+)\(")
_SHARED = re.compile(rf"{_KERNEL.pattern}|\b__shared__\b")
_OWN_INCLUDES = re.compile(r"^\s*#include <(?!cstdint>|type_traits>).*$", re.MULTILINE)
_DYNAMIC = re.compile(r"extern __shared__ (?:alignas\(\d+\) )?(\w+) (\w+)\[\];")
_ALIGNMENT = 256  # bytes, as the driver's allocations have
# No strict aliasing, since TVM's code reads the bits of one type as another. No contraction, as on the GPU: what is to be rounded once is
# written as fmaf, which processors have an instruction for.
_FLAGS = ("-std=c++17", "-O1", "-w", "-fPIC", "-shared", "-fno-strict-aliasing", "-ffp-contract=off", "-march=native")


def host_compiler() -> list[str] | None:
    """The command that compiles C++ for this machine; None without one."""
    for name in ("g++", "c++", "clang++"):
        if shutil.which(name):
            return [name]
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "c++"]
    return None


def host_source(source: str) -> str:
    """C++ for this machine from the CUDA C of a model."""
    names = list(dict.fromkeys(_KERNEL.findall(source)))
    body = _DYNAMIC.sub(r"\1 *\2 = effc_dynamic_shared<\1>();", _OWN_INCLUDES.sub("", source))
    kernel = ""

    def own(found: re.Match[str]) -> str:
        nonlocal kernel
        kernel = found[1] or kernel
        return found[0] if found[1] else f"EFFC_SHARED({kernel})"

    body = _SHARED.sub(own, body)
    rooms = "\n".join(f"EFFC_ROOM({name})" for name in names)
    return f'#include "cuda_on_host.h"\n{body}\n{rooms}\nEFFC_DOOR({" ".join(f"EFFC_KERNEL({name})" for name in names)})\n'


def host_library(source: str) -> bytes:
    """A shared library of the CUDA C of a model. Raises MissingDependencyError without a C++ compiler."""
    command = host_compiler()
    if command is None:
        raise MissingDependencyError("CUDA C cannot be run on this machine's CPU without a C++ compiler (g++): install one")
    from effc.runtime import native

    header = Path(str(native.__file__)).with_name("native") / "cuda_on_host.h"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "model.cpp").write_text(host_source(source), encoding="utf-8")
        command = [*command, *_FLAGS, f"-I{header.parent}", "-o", "model.so", "model.cpp"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[:500])
            raise InternalError(f"the CUDA code does not compile as C++ for this machine; please report it with the model: {first}")
        return Path(folder, "model.so").read_bytes()


class Emulation:
    """CUDA C that can be started here."""

    def __init__(self, source: str) -> None:
        """Compile it, which takes seconds."""
        with tempfile.TemporaryDirectory(prefix="effc-") as folder:
            path = Path(folder, "model.so")
            path.write_bytes(host_library(source))
            self._library = ctypes.CDLL(str(path))
        self._library.effc_why.restype = ctypes.c_char_p

    def launch(self, launch: Launch, arguments: Sequence[int | Array], descending: bool = False) -> None:
        """Run all threads of a launch.

        Args:
            launch: what is started; its `arguments` are not looked at.
            arguments: its pointers, as addresses or arrays.
            descending: run blocks and threads in descending order.
        """
        kernel = self._library.effc_find(launch.kernel.encode())
        if kernel < 0:
            raise InternalError(f"the CUDA code has no function {launch.kernel}")
        if self._library.effc_arguments_of(kernel) != len(arguments):
            raise InternalError(f"{launch.kernel} takes {self._library.effc_arguments_of(kernel)} pointers, not {len(arguments)}")
        pointers = [argument if isinstance(argument, int) else int(argument.__array_interface__["data"][0]) for argument in arguments]
        given = (ctypes.c_void_p * max(1, len(pointers)))(*pointers)
        grid, block = (ctypes.c_uint * 3)(*launch.grid), (ctypes.c_uint * 3)(*launch.block)
        if self._library.effc_emulate(kernel, grid, block, ctypes.c_uint(launch.shared), given, ctypes.c_int(descending)) != 0:
            raise InternalError(f"{launch.kernel}: {self._library.effc_why().decode()}")


class EmulatedDriver:
    """A device that is this machine's CPU and memory; see `effc.runtime.cuda.driver.Driver`."""

    def __init__(self, source: Emulation | str, descending: bool = False) -> None:
        """`source`: CUDA C, or what was made of it. `descending`: run blocks and threads in descending order."""
        self._emulation, self._descending = Emulation(source) if isinstance(source, str) else source, descending
        self._blocks: list[Array] = []
        self._recording: list[tuple[Launch, list[int]]] | None = None

    def load(self, code: bytes, launches: Iterable[Launch] = ()) -> None:
        """Nothing: what runs is not the machine code."""

    def allocate(self, size: int) -> int:
        """Memory that holds NaN for whoever reads it too early."""
        block = np.full(max(1, size) + _ALIGNMENT, 0xFF, np.uint8)
        self._blocks.append(block)
        start = int(block.__array_interface__["data"][0])
        return start + -start % _ALIGNMENT

    def upload(self, to: int, array: Array) -> None:
        """See `Driver`."""
        ctypes.memmove(to, int(array.__array_interface__["data"][0]), array.nbytes)

    def download(self, array: Array, source: int) -> None:
        """See `Driver`."""
        ctypes.memmove(int(array.__array_interface__["data"][0]), source, array.nbytes)

    def copy(self, to: int, source: int, size: int) -> None:
        """See `Driver`."""
        ctypes.memmove(to, source, size)

    def clear(self, to: int, size: int) -> None:
        """See `Driver`."""
        ctypes.memset(to, 0, size)

    def launch(self, kernel: str, grid: Sequence[int], block: Sequence[int], shared: int, arguments: Sequence[int]) -> None:
        """See `Driver`."""
        launch = Launch(kernel, (grid[0], grid[1], grid[2]), (block[0], block[1], block[2]), shared, ())
        if self._recording is not None:
            self._recording.append((launch, list(arguments)))
        else:
            self._emulation.launch(launch, arguments, self._descending)

    def record(self, work: Callable[[], None]) -> Any:
        """See `Driver`."""
        recorded: list[tuple[Launch, list[int]]] = []
        self._recording = recorded
        try:
            work()
        finally:
            self._recording = None
        return recorded

    def replay(self, recorded: Any) -> None:
        """See `Driver`."""
        for launch, arguments in recorded:
            self._emulation.launch(launch, arguments, self._descending)

    def synchronise(self) -> None:
        """Nothing: everything is done when it returns."""
