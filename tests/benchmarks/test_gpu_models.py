"""The benchmark of networks on a GPU without one: it compiles beforehand, runs what it finds, and claims nothing where nothing runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from benchmarks import gpu_models
from benchmarks.harness import REPOSITORY, Options
from effc.errors import ConfigError, DataError
from effc.lowering.cuda.emulation import EmulatedDriver, host_compiler
from effc.lowering.cuda.nvcc import find_nvcc
from effc.runtime import Session, open_artifact
from effc.runtime.cuda.executor import SOURCE, CudaExecutor

GPU = [("Emulated GPU", (9, 0))]


def emulated(path: Path) -> Session:
    artifact = open_artifact(path)
    manifest = artifact.manifest
    assert manifest.plan is not None
    names = [[spec.name for spec in specs] for specs in (manifest.code_inputs, manifest.code_outputs)]
    driver = EmulatedDriver(artifact.read(SOURCE).decode())
    return Session(artifact, executor=CudaExecutor(manifest.plan, *names, artifact.parameters(), b"", driver))


@pytest.mark.skipif(find_nvcc() is None or host_compiler() is None, reason="no nvcc (CUDA toolkit), or no C++ compiler (g++)")
@pytest.mark.slow
def test_what_was_compiled_beforehand_is_held_against_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFFC_DATA", str(tmp_path))  # holds no networks: the bundled one is compiled
    folder = tmp_path / "artifacts"
    more = {"artifacts": str(folder), "compile_only": True, "target": "cuda:sm_90"}
    made = gpu_models.measure(Options(quick=True, more=more))
    assert made.claims == []
    assert sorted(path.name for path in folder.iterdir()) == ["digits", "negation 64"]
    with mock.patch.object(gpu_models, "load", emulated), mock.patch.object(gpu_models, "devices", return_value=GPU):
        outcome = gpu_models.measure(Options(quick=True, more={"artifacts": str(folder)}))
    (claim,) = outcome.claims
    assert claim.holds and 0 <= claim.value < 1e-5
    rows = {row["model"]: row for row in outcome.rows}
    assert rows["digits"]["us of the baseline"] == rows["negation 64"]["median us"] > 0


def test_without_a_driver_nothing_is_claimed_and_neither_torch_nor_tvm_is_needed() -> None:
    code = (
        "import sys\nfor name in ('torch', 'tvm', 'onnx', 'effc.compiler', 'effc.lowering'): sys.modules[name] = None\n"
        "from unittest import mock\nfrom benchmarks import gpu_models\nfrom benchmarks.harness import Options\n"
        "from effc.runtime.cuda import libcuda\n"
        "with mock.patch.object(gpu_models, 'devices', lambda: libcuda.devices('no-such-libcuda.so.1')):\n"
        "    outcome = gpu_models.measure(Options())\n"
        "assert outcome.claims == [] and 'no usable driver' in outcome.rows[0]['skipped']\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_wrong_use_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--compile-only needs --artifacts DIR"):
        gpu_models.measure(Options(more={"compile_only": True}))
    with mock.patch.object(gpu_models, "devices", return_value=GPU), pytest.raises(DataError, match="holds no artifacts"):
        gpu_models.measure(Options(more={"artifacts": str(tmp_path)}))
