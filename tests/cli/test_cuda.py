"""The command line for GPUs, on a machine without one."""

from __future__ import annotations

import ctypes
import json
import re
from pathlib import Path
from typing import Any

import pytest

from effc.lowering.cuda.emulation import host_compiler
from effc.lowering.cuda.nvcc import find_nvcc
from effc.runtime import open_artifact, write_artifact
from tests.cli.conftest import DIGITS, TEST, Effc


def _gpu() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


without_gpu = pytest.mark.skipif(_gpu(), reason="this machine has NVIDIA's driver")
needs_tools = pytest.mark.skipif(find_nvcc() is None or host_compiler() is None, reason="no nvcc (CUDA toolkit), or no C++ compiler (g++)")


@pytest.fixture(scope="module")
def for_a_gpu(effc: Effc, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("cuda") / "digits"
    result = effc("compile", DIGITS, "--target", "cuda:sm_90", "-o", out, "--json")
    assert result.exit_code == 0, result.output
    return out, json.loads(result.stdout)


@without_gpu
@needs_tools
def test_compile_without_a_gpu_runs_the_code_on_the_cpu(for_a_gpu: tuple[Path, dict[str, Any]]) -> None:
    out, said = for_a_gpu
    assert "in the place of a GPU" in said["self_test"]["emulator"]
    assert re.fullmatch(r"PASS logits \S+", said["self_test"]["output"])
    assert (out / "model.cubin").read_bytes()[:4] == b"\x7fELF"
    assert "__global__" in (out / "model.cu").read_text()
    assert not (out / "model.so").exists()


@without_gpu
@needs_tools
@pytest.mark.parametrize("arguments", [("run", "{}", "--input", str(TEST)), ("bench", "{}")], ids=lambda one: one[0])
def test_running_without_a_gpu_says_what_is_missing(effc: Effc, for_a_gpu: tuple[Path, dict[str, Any]], arguments: tuple[str, ...]) -> None:
    result = effc(*(word.format(for_a_gpu[0]) for word in arguments))
    assert result.exit_code == 6, result.output
    assert "was compiled for cuda:sm_90: there is no usable driver of NVIDIA's on this machine" in " ".join(result.stderr.split())


@without_gpu
@needs_tools
def test_verify_without_a_gpu_runs_the_cuda_code_on_the_cpu(effc: Effc, for_a_gpu: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    result = effc("verify", for_a_gpu[0], "--source", DIGITS, "--data", TEST, "--json")
    assert result.exit_code == 0, result.output
    verdict = json.loads(result.stdout)
    assert verdict["findings"][0]["what"] == "model.cu on this machine's CPU against golden outputs"
    assert verdict["findings"][0]["samples"] > 0
    assert any("model.cubin was not run" in note for note in verdict["notes"])
    assert [finding["samples"] for finding in verdict["findings"]][2:] == [8, 450], "its program is compared with the source"
    assert any("the code was not run on the data" in note for note in verdict["notes"])

    artifact = open_artifact(for_a_gpu[0])  # one whose code computes something else
    files = {name: artifact.read(name) for name in artifact.manifest.files}
    assert b" = fmaf(" in files["model.cu"]
    files["model.cu"] = files["model.cu"].replace(b" = fmaf(", b" = 2.0f * fmaf(")
    write_artifact(tmp_path / "other", files, artifact.manifest.data)
    result = effc("verify", tmp_path / "other")
    assert result.exit_code == 5, result.output
    assert "DIFFERS" in result.stdout


@without_gpu
@needs_tools
def test_verify_of_what_a_cpu_does_not_run_says_why(
    effc: Effc, for_a_gpu: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("effc.compiler.cuda_trial._MOST_WORK", 2e5)
    result = effc("verify", for_a_gpu[0])
    assert result.exit_code == 6, result.output
    said = " ".join(result.stderr.split())
    assert "this machine has no such GPU, and its CPU does not run it: a call of over 100,000 multiply-accumulates takes too long" in said


@needs_tools
def test_inspect_shows_the_plan(effc: Effc, for_a_gpu: tuple[Path, dict[str, Any]]) -> None:
    result = effc("inspect", for_a_gpu[0])
    assert result.exit_code == 0
    assert "cuda:sm_90" in result.stdout + result.stderr


def test_targets_and_doctor_name_gpus(effc: Effc) -> None:
    targets = {one["name"]: one for one in json.loads(effc("targets", "--json").stdout)["targets"]}
    assert targets["cuda:sm_90"]["cpu"] == "sm_90"
    assert {"cuda:sm_80", "cuda:sm_86", "cuda:sm_87", "cuda:sm_89", "cuda:sm_100"} <= targets.keys()
    assert "with such a GPU" in " ".join(effc("targets").stdout.split())
    findings = {one["what"]: one for one in json.loads(effc("doctor", "--json").stdout)["findings"]}
    assert findings["compiler for cuda:*"]["well"] is (find_nvcc() is not None)
    assert not any("cuda:sm" in what for what in findings)


def test_without_nvcc_compile_ends_at_once(effc: Effc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effc.lowering.cuda.nvcc.find_nvcc", lambda: None)
    result = effc("compile", DIGITS, "--target", "cuda:sm_90", "-o", tmp_path / "out")
    assert result.exit_code == 6
    assert "nvidia-cuda-nvcc" in result.stderr
    assert not (tmp_path / "out").exists()
