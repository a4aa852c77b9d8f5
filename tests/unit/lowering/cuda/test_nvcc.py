"""Where nvcc is found, what it is told, and what is said where it is not there or fails."""

from __future__ import annotations

import importlib.machinery
from pathlib import Path
from unittest import mock

import pytest

from effc.errors import InternalError, MissingDependencyError
from effc.lowering.cuda import nvcc
from effc.lowering.cuda.nvcc import compile_cubin, find_nvcc, require_nvcc

SOURCE = 'extern "C" __global__ void __launch_bounds__(32) f(float* __restrict__ x) { x[threadIdx.x] *= 2.0f; }\n'
needs_nvcc = pytest.mark.skipif(find_nvcc() is None, reason="no nvcc (CUDA toolkit) on this machine")


def _executable(path: Path, text: str = "#!/bin/sh\nexit 1\n") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def test_the_path_comes_first_then_cuda_home_then_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "site" / "nvidia"
    spec = importlib.machinery.ModuleSpec("nvidia", None, is_package=True)
    spec.submodule_search_locations = [str(wheel)]
    monkeypatch.setattr(nvcc.importlib.util, "find_spec", lambda name: spec if name == "nvidia" else None)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    assert find_nvcc() is None
    in_wheel = _executable(wheel / "cu13" / "bin" / "nvcc")
    assert find_nvcc() == in_wheel
    in_home = _executable(tmp_path / "cuda" / "bin" / "nvcc")
    assert find_nvcc() == in_home
    on_path = _executable(tmp_path / "bin" / "nvcc")
    assert find_nvcc() == on_path


def test_without_nvcc_the_error_says_what_to_install() -> None:
    with (
        mock.patch.object(nvcc, "find_nvcc", return_value=None),
        pytest.raises(MissingDependencyError, match="pip install nvidia-cuda-nvcc") as caught,
    ):
        require_nvcc("cuda:sm_90")
    assert caught.value.exit_code == 6
    assert "target cuda:sm_90" in caught.value.message


def test_without_a_cpp_compiler_the_error_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _executable(tmp_path / "nvcc")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError, match=r"needs a C\+\+ compiler"):
        require_nvcc("cuda:sm_90")


@pytest.mark.parametrize(
    ("says", "error", "text"),
    [
        ("nvcc fatal   : Unsupported gpu architecture 'compute_100'", MissingDependencyError, "does not know sm_100"),
        (
            'model.cu(3): error: expected a ";"',
            InternalError,
            'report it with the model. nvcc says: model.cu\\(3\\): error: expected a ";"',
        ),
        ("model.cu:1:10: fatal error: cuda.h: No such file or directory", MissingDependencyError, "No such file(.|\n)*nvidia-cuda-runtime"),
    ],
)
def test_what_nvcc_says_tells_who_is_to_blame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, error: type[Exception], text: str
) -> None:
    _executable(tmp_path / "nvcc", f"#!/bin/sh\ncat >&2 <<'END'\n{says}\nEND\nexit 2\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(error, match=text):
        compile_cubin(SOURCE, "sm_100")


@needs_nvcc
def test_the_same_text_gives_the_same_bytes() -> None:
    first, second = (compile_cubin(SOURCE, "sm_90") for _ in range(2))
    assert first == second
    assert first[:4] == b"\x7fELF"
    assert compile_cubin(SOURCE, "sm_80") != first
