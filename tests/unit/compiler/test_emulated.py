"""What is verified of code for a GPU where there is none, and for another processor: what was run, and what only its program stands for."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from effc.compiler import compile_model
from effc.compiler.cuda_trial import gpu_here
from effc.compiler.verification import verify_artifact
from effc.errors import MissingDependencyError
from effc.lowering.cuda.emulation import host_compiler
from effc.lowering.cuda.nvcc import find_nvcc
from effc.runtime import open_artifact, write_artifact

pytestmark = [
    pytest.mark.skipif(find_nvcc() is None or host_compiler() is None, reason="no nvcc (CUDA toolkit), or no C++ compiler (g++)"),
    pytest.mark.skipif(gpu_here("sm_90"), reason="this machine has such a GPU"),
]


def exported(module: nn.Module, path: Path, *shape: int) -> Path:
    torch.export.save(torch.export.export(module.eval(), (torch.zeros(*shape),)), path)
    return path


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two convolutions over lists of what moved."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1)).eval()
    clip = {"input": np.random.default_rng(0).random((6, 1, 8, 8), np.float32)}
    out = tmp_path_factory.mktemp("stream") / "out"
    compile_model(
        net, out, target="cuda:sm_90", example_inputs=(torch.zeros(1, 1, 8, 8),), passes="delta{mode=exact,dense=never}", data=clip
    )
    return out


def test_frames_that_are_not_computed_whole_are_tried(stream: Path, tmp_path: Path) -> None:
    verdict = verify_artifact(stream)
    assert verdict.passed
    assert [finding.samples for finding in verdict.findings][:2] == [3, 3]
    assert "a reset before every frame" in verdict.findings[1].what

    artifact = open_artifact(stream)  # the same without what computes pixels that moved
    files = {name: artifact.read(name) for name in artifact.manifest.files}
    emptied, count = re.subn(
        r"(__global__ void (?:__launch_bounds__\([^)]*\)\s+)?listed\w+\([^{]*\)\s*\{)", r"\1 return;", files["model.cu"].decode()
    )
    assert count
    write_artifact(tmp_path / "emptied", {**files, "model.cu": emptied.encode()}, artifact.manifest.data)
    assert [finding.passed for finding in verify_artifact(tmp_path / "emptied").findings][:2] == [False, False]


def test_a_stream_of_which_one_frame_could_be_run_is_not_called_verified(stream: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = open_artifact(stream).manifest.plan
    assert plan is not None
    work = sum(step.macs for step in plan.steps)
    monkeypatch.setattr("effc.compiler.cuda_trial._MOST_WORK", 3 * work)
    with pytest.raises(
        MissingDependencyError, match=r"its CPU does not run it: 2 frames of over [\d,]+ multiply-accumulates takes too long"
    ):
        verify_artifact(stream)
    monkeypatch.setattr("effc.compiler.cuda_trial._MOST_WORK", 4 * work)
    assert [finding.samples for finding in verify_artifact(stream).findings] == [2, 6], "two frames, and no clip with resets"


def test_another_source_is_no_success(tmp_path: Path) -> None:
    torch.manual_seed(0)
    own, other = nn.Sequential(nn.Linear(7, 5), nn.ReLU()), nn.Sequential(nn.Linear(7, 5), nn.ReLU())
    source, foreign = exported(own, tmp_path / "own.pt2", 2, 7), exported(other, tmp_path / "other.pt2", 2, 7)
    compile_model(source, tmp_path / "out", target="cuda:sm_90")
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).random((4, 7), np.float32))
    good = verify_artifact(tmp_path / "out", source=source, data=tmp_path / "data.npz")
    assert good.passed
    assert [finding.what for finding in good.findings[2:]] == [
        "golden outputs against the source",
        "its own program against the source, data",
    ]
    assert [finding.samples for finding in good.findings] == [1, 1, 1, 4], "without a batch a call is one sample"
    bad = verify_artifact(tmp_path / "out", source=foreign)
    assert not bad.passed
    assert not bad.own_source
    assert bad.diverging.startswith("the import of the source")
