"""`fake_cuda.cpp` as the driver, and artifacts whose machine code it runs on this machine's CPU."""

from __future__ import annotations

import ctypes
import gc
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest

from effc.compiler import compile_model
from effc.lowering.cuda.emulation import host_compiler, host_library
from effc.runtime import open_artifact
from effc.runtime.artifact import Artifact
from tests.unit.runtime.fake_gpu import DIGITS

SOURCE = Path(__file__).with_name("fake_cuda.cpp")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("driver") / "libcuda.so.1"
    command = host_compiler()
    assert command is not None
    subprocess.run(
        [*command, "-std=c++17", "-shared", "-fPIC", "-w", "-o", str(path), str(Path(__file__).with_name("fake_cuda.cpp")), "-ldl"],
        check=True,
    )
    return str(path)


@pytest.fixture
def machine(driver: str) -> Iterator[ctypes.CDLL]:
    """The driver's own switches; afterwards it is a machine with one GPU of compute capability 9.0 again."""
    gc.collect()  # sessions of earlier tests end before graphs and blocks are counted, not meanwhile
    fake = ctypes.CDLL(driver)
    yield fake
    fake.fake_machine(1, 9, 0)
    fake.fake_failing(0)
    fake.fake_declared(0)
    fake.fake_room(ctypes.c_size_t(80 << 20))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Artifact]:
    """Compiles for sm_90 with a "cubin" that is the path of the CUDA C's library for this machine."""
    folder, artifacts = tmp_path_factory.mktemp("cubins"), tmp_path_factory.mktemp("artifacts")

    def cubin(source: str, architecture: str) -> bytes:
        path = folder / f"{len(list(folder.iterdir()))}.so"  # a new name each time: what is loaded must not change
        path.write_bytes(host_library(source))
        return str(path).encode()

    def compile_(source: object, name: str, **options: object) -> Artifact:
        with (
            mock.patch("effc.lowering.cuda.backend.compile_cubin", cubin),
            mock.patch("effc.compiler.backends.require_nvcc", return_value="nvcc"),
        ):
            compile_model(source, artifacts / name, target="cuda:sm_90", **options)  # type: ignore[arg-type]
        return open_artifact(artifacts / name)

    return compile_


@pytest.fixture(scope="module")
def digits(compiled: Callable[..., Artifact]) -> Artifact:
    return compiled(DIGITS, "digits")
