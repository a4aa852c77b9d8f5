"""The native side: TVM's runtime library and the compiled code of an artifact, both through ctypes.

Importing the `tvm` package takes seconds and pulls in torch where that is installed. Compiled plans need only a few C functions of TVM's
runtime (a thread pool above all), so its library is loaded by itself. When the package is imported later, it finds the same library.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from effc.errors import InputRejectedError, MissingDependencyError

__all__ = ["built_for", "call_global", "fresh_name", "load_code", "set_max_concurrency", "tvm_runtime"]

# Code that TVM emits for a library calls these through pointers of the library (two underscores before the name); the loader sets them.
_CONTEXT = (
    "TVMFFIFunctionCall",
    "TVMFFIErrorSetRaisedFromCStr",
    "TVMFFIErrorSetRaisedFromCStrParts",
    "TVMFFIHandleInitOnce",
    "TVMFFIHandleDeinitOnce",
    "TVMBackendParallelLaunch",
    "TVMBackendParallelBarrier",
    "TVMBackendAllocWorkspace",
    "TVMBackendFreeWorkspace",
    "TVMFFIEnvModLookupFromImports",
)
_INT = 1  # kTVMFFIInt
# ELF's class (1: of 32 bits) and e_machine, as `uname -m` names them
_PROCESSORS = {
    (1, 3): "i686",
    (1, 40): "armv7l",
    (1, 164): "hexagon",
    (1, 243): "riscv32",
    (2, 62): "x86_64",
    (2, 183): "aarch64",
    (2, 243): "riscv64",
}
_SET_MAX_CONCURRENCY = "_ZN3tvm7runtime9threading17SetMaxConcurrencyEi"  # tvm::runtime::threading::SetMaxConcurrency(int)
_INSTALL = "effc needs apache-tvm 0.27: pip install 'apache-tvm>=0.27,<0.28'"


class _ByteArray(ctypes.Structure):
    _fields_ = (("data", ctypes.c_char_p), ("size", ctypes.c_size_t))


class _Any(ctypes.Structure):
    """TVMFFIAny with an integer in it."""

    _fields_ = (("type_index", ctypes.c_int32), ("padding", ctypes.c_uint32), ("value", ctypes.c_int64))


@functools.cache
def tvm_runtime() -> ctypes.CDLL:
    """TVM's runtime library, its symbols visible to libraries that are loaded after it. Raises MissingDependencyError."""
    _load_global("tvm_ffi", "libtvm_ffi.so")
    return _load_global("tvm", "libtvm_runtime.so")


def built_for(path: Path) -> str:
    """The processor that a shared library is for, as `uname -m` names it, by the library's own header; empty where that is not known."""
    with open(path, "rb") as file:
        header = file.read(20)
    if len(header) < 20 or header[:4] != b"\x7fELF":
        return ""
    return _PROCESSORS.get((header[4], int.from_bytes(header[18:20], "big" if header[5] == 2 else "little")), "")


def load_code(path: Path) -> ctypes.CDLL:
    """The shared library of an artifact, linked against TVM's runtime. Raises InputRejectedError when it cannot be loaded here."""
    runtime = tvm_runtime()
    try:
        with fresh_name(path) as fresh:
            library = ctypes.CDLL(str(fresh), mode=os.RTLD_NOW | os.RTLD_LOCAL)
    except OSError as error:
        said = str(error).replace(f"{fresh}: ", "")
        raise InputRejectedError(f"{path} cannot be loaded on this machine ({said}): it is damaged, or for another system") from error
    for name in _CONTEXT:
        try:
            pointer = ctypes.c_void_p.in_dll(library, f"__{name}")
        except ValueError:
            continue  # this library does not use it
        pointer.value = ctypes.cast(getattr(runtime, name), ctypes.c_void_p).value
    return library


@contextmanager
def fresh_name(path: Path) -> Iterator[Path]:
    """Another path to a library, never used before.

    The dynamic loader knows libraries by their names: asked again for a path that it has loaded, it hands out the old code, even when
    an artifact has been compiled anew in that place.
    """
    with tempfile.TemporaryDirectory(prefix="effc-") as folder:
        link = Path(folder) / path.name
        link.symlink_to(path.resolve())
        yield link


def call_global(name: str, *arguments: int) -> int | None:
    """Call one of TVM's global functions that takes and returns integers; None when it returns nothing."""
    runtime = tvm_runtime()
    function, encoded = ctypes.c_void_p(), name.encode()
    packed = (_Any * max(len(arguments), 1))(*(_Any(_INT, 0, argument) for argument in arguments))
    result = _Any()
    if runtime.TVMFFIFunctionGetGlobal(ctypes.byref(_ByteArray(encoded, len(encoded))), ctypes.byref(function)) != 0 or not function:
        raise MissingDependencyError(f"TVM's runtime has no function {name}; {_INSTALL}")
    try:
        if runtime.TVMFFIFunctionCall(function, packed, ctypes.c_int32(len(arguments)), ctypes.byref(result)) != 0:
            raise MissingDependencyError(f"TVM's {name} refused {arguments}; {_INSTALL}")
    finally:
        runtime.TVMFFIObjectDecRef(function)
    return int(result.value) if result.type_index == _INT else None


def set_max_concurrency(count: int) -> None:
    """Set the most threads that TVM gives a parallel kernel of the calling thread; 0 unsets it.

    TVM keeps this in a thread-local variable and has no global function for it, only this one of C++. Raises MissingDependencyError.
    """
    try:
        function = tvm_runtime()[_SET_MAX_CONCURRENCY]
    except AttributeError as error:
        raise MissingDependencyError(f"TVM's runtime has no function {_SET_MAX_CONCURRENCY}; {_INSTALL}") from error
    function.argtypes, function.restype = [ctypes.c_int], None
    function(count)


def _load_global(package: str, file: str) -> ctypes.CDLL:
    spec = importlib.util.find_spec(package)  # finds the folder without importing the package
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "lib" / file
        if path.is_file():
            return ctypes.CDLL(str(path), mode=os.RTLD_NOW | os.RTLD_GLOBAL)
    raise MissingDependencyError(f"{file} is not installed; {_INSTALL}")
