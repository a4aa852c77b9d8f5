"""NVIDIA's compiler: where it is, and CUDA C to a cubin. Same text, same bytes."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from effc.errors import InternalError, MissingDependencyError

__all__ = ["OPTIONS", "compile_cubin", "find_nvcc", "nvcc_version", "require_nvcc"]

_INSTALL = (
    "install NVIDIA's CUDA toolkit and put its bin/ on the PATH or its folder into CUDA_HOME, or "
    "`pip install nvidia-cuda-nvcc nvidia-cuda-crt nvidia-cuda-runtime nvidia-cuda-cccl nvidia-nvvm`; a GPU is not needed"
)
# Nothing is contracted but what `passes` has written as fmaf: what runs is what was tested, bit for bit.
OPTIONS = ("-std=c++17", "-fmad=false")
_QUIET = "1046"  # TVM prints constants with more digits than a float has
_WHEEL = ("*/bin/nvcc",)  # inside of the package `nvidia`, one folder for each version of CUDA


def find_nvcc() -> str | None:
    """nvcc on the PATH, in $CUDA_HOME, or of the wheel `nvidia-cuda-nvcc`; None without one."""
    found = shutil.which("nvcc")
    if found is not None:
        return found
    home = os.environ.get("CUDA_HOME")
    if home and os.access(Path(home, "bin", "nvcc"), os.X_OK):
        return str(Path(home, "bin", "nvcc"))
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        for pattern in _WHEEL:
            for path in sorted(Path(folder).glob(pattern), reverse=True):
                if os.access(path, os.X_OK):
                    return str(path)
    return None


def require_nvcc(target: str) -> str:
    """The compiler's path. Raises MissingDependencyError."""
    found = find_nvcc()
    if found is None:
        raise MissingDependencyError(
            f"no compiler for target {target}: nvcc is neither on the PATH nor in $CUDA_HOME nor in the wheel nvidia-cuda-nvcc; {_INSTALL}"
        )
    if shutil.which("g++") is None and shutil.which("c++") is None:
        raise MissingDependencyError(
            f"no compiler for target {target}: nvcc needs a C++ compiler of the system (g++), and none is on the PATH"
        )
    return found


def nvcc_version(nvcc: str) -> str:
    """Such as `13.0.88`; empty where it does not say."""
    said = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False).stdout
    return next((word.strip(",").removeprefix("V") for word in said.split() if word.startswith("V") and word[1:2].isdigit()), "")


def compile_cubin(source: str, architecture: str) -> bytes:
    """Machine code for one architecture, such as `sm_90`. Raises MissingDependencyError without nvcc, or with one that does not know it."""
    nvcc = require_nvcc(f"cuda:{architecture}")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "model.cu").write_text(source, encoding="utf-8")
        # Relative names: the folder's random one must not reach the bytes.
        command = [nvcc, "-cubin", f"-arch={architecture}", *OPTIONS, "-diag-suppress", _QUIET, "-o", "model.cubin", "model.cu"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return Path(folder, "model.cubin").read_bytes()
    said = (done.stderr + done.stdout).strip()
    if "Unsupported gpu architecture" in said or "is not defined for option 'gpu-architecture'" in said:
        raise MissingDependencyError(f"{nvcc} {nvcc_version(nvcc)} does not know {architecture}: install a CUDA toolkit that does")
    if "error:" in said and "model.cu" in said and "fatal error: cuda" not in said:
        first = next(line for line in said.splitlines() if "error:" in line)
        raise InternalError(f"the CUDA code that effc wrote does not compile; please report it with the model. nvcc says: {first}")
    raise MissingDependencyError(f"{' '.join(command)} failed:\n{said[:2000]}\n{_INSTALL}")
