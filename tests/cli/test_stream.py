"""`effc stream`, and what other commands do with a streaming artifact. The artifacts' code is C, see streaming_artifact.py."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effc.data import Preprocess
from effc.runtime import write_artifact
from effc.runtime.plan import Buffer, Plan, Step
from tests.cli.conftest import Effc
from tests.unit.data.clips import pictures, write_video
from tests.unit.runtime.dense_artifact import compile_c, fields
from tests.unit.runtime.streaming_artifact import (
    DENSE_CODE,
    DENSE_PLAN,
    SPARSE_CODE,
    SPARSE_PLAN,
    clip,
    expected,
    streaming_fields,
    streaming_files,
)

QUICK = ("--threads", "1")


@pytest.fixture(scope="module")
def cc() -> str:
    found = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if found is None:
        pytest.skip("no C compiler (cc, gcc or clang) on this machine")
    return found


@pytest.fixture(scope="module")
def artifacts(cc: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`sparse` with a block of states, `dense` with states that are passed, `video` for pictures of 6x8 pixels."""
    folder = tmp_path_factory.mktemp("artifacts")
    for name, code, plan in (("sparse", SPARSE_CODE, SPARSE_PLAN), ("dense", DENSE_CODE, DENSE_PLAN)):
        library = compile_c(cc, code, tmp_path_factory.mktemp(name))
        write_artifact(folder / name, streaming_files(library), streaming_fields(plan))
    library = compile_c(cc, VIDEO_CODE, tmp_path_factory.mktemp("video"))
    write_artifact(folder / "video", {"model.so": library}, video_fields())
    return folder


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    np.savez(tmp_path / "clip.npz", x=clip(40))
    return tmp_path / "clip.npz"


VIDEO_CODE = r"""
#include <stdint.h>
int32_t run(uint8_t *arena, const uint8_t *parameters, int32_t *clock, const float *x, float *y, int32_t *status) {
  for (int c = 0; c < 3; ++c) { y[c] = 0; for (int i = 0; i < 48; ++i) y[c] += x[48 * c + i]; }
  *clock += 1;
  *status = 0;
  return 0;
}
"""


def video_fields() -> dict[str, Any]:
    """Sums of the three colours of a picture whose values are 0 to 255."""
    tensors = [{"name": "image", "shape": ["batch", 3, 6, 8], "dtype": "float32"}, {"name": "clock", "shape": ["batch"], "dtype": "int32"}]
    results = [{"name": "sums", "shape": ["batch", 3], "dtype": "float32"}, {"name": "clock_next", "shape": ["batch"], "dtype": "int32"}]
    buffers = (
        Buffer("image", "input", (1, 3, 6, 8), "float32", 0, 576),
        Buffer("sums", "output", (1, 3), "float32", 0, 12),
        Buffer("clock", "state", (1,), "int32", 0, 4),
    )
    step = Step("sum", "total", ("image",), ("sums",), ("sum",), ("sum",), 144, 588)
    plan = Plan("run", buffers, (step,), 0, 0, state_bytes=64, fresh=(step,), clock="clock")
    return fields(
        inputs=tensors,
        outputs=results,
        states=[{"input": "clock", "output": "clock_next", "resident": True}],
        batch={"size": 1, "symbolic": True, "reason": ""},
        parameters={},
        plan=plan.as_json(),
        preprocess=Preprocess.parse("size=6x8,range=0..255").as_json(),
    )


@pytest.mark.parametrize("kind", ["sparse", "dense"])
def test_outputs_and_numbers(effc: Effc, artifacts: Path, frames: Path, tmp_path: Path, kind: str) -> None:
    options = ("--input", frames, "--compare-dense", "-o", tmp_path / "y.npz", "--json", *QUICK)
    result = effc("stream", artifacts / kind, *options)
    assert result.exit_code == 0, result.output
    said, y = json.loads(result.stdout), expected(clip(40))[0]
    with np.load(tmp_path / "y.npz") as saved:
        assert list(saved) == ["y"] and np.array_equal(saved["y"], y)
    assert said["frames"] == 40 and said["saved"] == str(tmp_path / "y.npz") and said["report"] is None
    per_frame = said["per_frame"]
    whole = 10 * clip(40)
    np.testing.assert_allclose(per_frame["error"], np.abs(y - whole).max(1) / np.abs(whole).max(), rtol=1e-6)
    assert said["against_whole"]["largest_error"] == max(per_frame["error"]) > 0
    assert all(time > 0 for time in per_frame["ns"] + per_frame["ns_whole"])
    if kind == "sparse":
        assert per_frame["whole"] == [index % 5 == 0 for index in range(40)]
        assert said["state_bytes"] == 200 and said["states"]["stream.x"] == 16
        conv = said["layers"][1]
        partial = [share for share, is_whole in zip(per_frame["share"], per_frame["whole"], strict=True) if not is_whole]
        assert conv["share"] == pytest.approx((np.mean(partial) - 0.25) / 0.75)
    else:
        assert all(per_frame["whole"]) and set(per_frame["share"]) == {1.0}


def test_tables_and_page(effc: Effc, artifacts: Path, frames: Path, tmp_path: Path) -> None:
    result = effc("stream", artifacts / "sparse", "--input", frames, "--report", tmp_path / "page.html", "--frames", "12", *QUICK)
    assert result.exit_code == 0, result.output
    for part in ("12 from", "3 frames computed whole", "every frame whole", "200 B", "head.conv", "dense", "12 frames, written"):
        assert part in result.stdout
    page = (tmp_path / "page.html").read_text()
    assert page.count("<svg") == 4 and "<script" not in page and "default-src 'none'" in page
    for part in ("Error of each frame", "head.conv", "stream.clock", "1 of 2 layers with multiply-accumulates is dense and has 25.0%"):
        assert part in page
    plain = effc("stream", artifacts / "sparse", "--input", frames, "--report", tmp_path / "plain.html", "--no-compare-dense", *QUICK)
    assert plain.exit_code == 0 and "Error of each frame" not in (tmp_path / "plain.html").read_text()


def test_resets(effc: Effc, artifacts: Path, frames: Path, tmp_path: Path) -> None:
    options = ("--input", frames, "--reset-every", "1", "--frames", "6", "-o", tmp_path / "y.npy", *QUICK)
    assert effc("stream", artifacts / "sparse", *options).exit_code == 0
    assert np.array_equal(np.load(tmp_path / "y.npy"), 10 * clip(40)[:6])


def test_a_video(effc: Effc, artifacts: Path, tmp_path: Path) -> None:
    """By the preprocessing that the artifact keeps; another one says so."""
    pytest.importorskip("av")
    made = pictures(7)
    path = write_video(tmp_path / "clip.mkv", made)
    result = effc("stream", artifacts / "video", "--input", path, "-o", tmp_path / "y.npy", "--json", *QUICK)
    assert result.exit_code == 0, result.output
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), made.sum((1, 2)), rtol=1e-5)
    halved = ("--preprocess", "size=6x8,range=0..127.5")
    assert effc("stream", artifacts / "video", "--input", path, "-o", tmp_path / "y.npy", *halved, *QUICK).exit_code == 0
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), made.sum((1, 2)) / 2, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "given", "options", "code", "words"),
    [
        ("sparse", "missing.npz", (), 2, "does not exist"),
        ("sparse", "missing.mp4", (), 2, "does not exist"),
        ("sparse", "junk.mp4", (), 4, "junk.mp4 is no video"),
        ("sparse", "junk.npz", (), 2, "neither a sound .npz"),
        ("sparse", "nan.npz", (), 2, "x: frame 3: holds NaN"),
        ("sparse", "clip.npz", ("--preprocess", "size=2"), 2, "--preprocess is for videos"),
        ("sparse", "clip.npz", ("-o", "y.txt"), 2, "-o writes .npz or .npy"),
        ("sparse", "clip.npz", ("--report", "r.pdf"), 2, "--report writes .html"),
        ("sparse", "clip.npz", ("--report", "/nowhere/r.html"), 2, "there is no folder /nowhere"),
        ("sparse", "clip.npz", ("-o", "y.npz", "--limit", "data_bytes=100"), 4, "over the limit of 100 bytes that are kept for --save"),
        ("sparse", "clip.npz", ("--frames", "0"), 2, "--frames"),
        ("video", "junk.mp4", (), 4, "junk.mp4 is no video that can be decoded"),
        ("video", "missing.mp4", (), 2, "does not exist"),
        ("video", "v4l2:/dev/none", (), 2, "the camera /dev/none (v4l2) cannot be opened"),
        ("video", "junk.mp4", ("--preprocess", "size=9"), 4, "junk.mp4 is no video"),
    ],
)
def test_errors(
    effc: Effc, artifacts: Path, frames: Path, monkeypatch: pytest.MonkeyPatch, kind: str, given: str, options: Any, code: int, words: str
) -> None:
    if kind == "video":
        pytest.importorskip("av")
    monkeypatch.chdir(frames.parent)
    Path("junk.npz").write_bytes(b"junk")
    Path("junk.mp4").write_bytes(b"junk" * 99)
    x = clip(9)
    x[3, 0] = np.nan
    np.savez("nan.npz", x=x)
    result = effc("stream", artifacts / kind, "--input", given, *options, *QUICK)
    assert result.exit_code == code, result.output
    assert words in result.stderr and result.stderr.count("error:") == 1 and not result.stdout
    assert not Path("y.npz").exists()


def test_an_artifact_without_states(effc: Effc, compiled: tuple[Path, Any], frames: Path) -> None:
    result = effc("stream", compiled[0], "--input", frames)
    assert result.exit_code == 2 and "has no states" in result.stderr


def test_bench_needs_frames(effc: Effc, artifacts: Path, frames: Path) -> None:
    quick = ("--blocks", "2", "--seconds", "0.02", "--warm-up", "0.05", *QUICK)
    refused = effc("bench", artifacts / "sparse", *quick)
    assert refused.exit_code == 2 and "effc stream" in refused.stderr and "--input clip.npz" in refused.stderr
    timed = effc("bench", artifacts / "sparse", "--input", frames, *quick)
    assert timed.exit_code == 0, timed.output
    assert "in one stream" in timed.stdout


def test_inspect_shows_the_states(effc: Effc, artifacts: Path) -> None:
    shown = effc("inspect", artifacts / "sparse").stdout
    for part in (
        "float32[1, 4] (frames in order)",
        "1 of them compute only",
        "delta_conv, changes only",
        "keeps 200 B from frame to frame",
    ):
        assert part in shown
    assert "input stream.x" not in shown
    assert json.loads(effc("inspect", artifacts / "dense", "--json").stdout)["state_sizes"] == {
        "total": 8,
        "stream.clock": 8,
        "stream.x": 32,
    }
