"""Broken and hostile use: the documented exit code, a message that says what to do, and nothing left on disk."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effc.runtime import load

ROOT = Path(__file__).resolve().parents[2]
DIGITS, TEST = ROOT / "examples" / "digits.onnx", ROOT / "examples" / "digits_test.npz"
EFFC = Path(sys.executable).with_name("effc")


def error_of(result: Any) -> dict[str, Any]:
    """The error of a command that was run with --json."""
    document = json.loads(result.stdout)["error"]
    assert document["exit_code"] == result.exit_code
    return dict(document)


def words(error: dict[str, Any]) -> str:
    return " ".join([error["message"], *(" ".join(problem.values()) for problem in error["problems"])])


class TestRun:
    @pytest.mark.parametrize(
        ("arrays", "expected"),
        [
            ({"picture": np.zeros((2, 1, 8, 8), np.float32)}, ["picture", "no such input", "image"]),
            ({"image": np.zeros((2, 1, 9, 8), np.float32)}, ["shape [2, 1, 9, 8]", "[N, 1, 8, 8]"]),
            ({"image": np.zeros((2, 1, 8, 8), np.float64)}, ["float64", "expected float32", "astype"]),
            ({"image": np.full((2, 1, 8, 8), np.nan, np.float32)}, ["NaN", "index 0"]),
            ({"image": np.zeros((0, 1, 8, 8), np.float32)}, ["there are none"]),
        ],
        ids=["name", "shape", "dtype", "nan", "empty"],
    )
    def test_wrong_input_is_two(
        self, effc: Any, compiled: tuple[Path, dict[str, Any]], tmp_path: Path, arrays: dict[str, Any], expected: list[str]
    ) -> None:
        source, output = tmp_path / "x.npz", tmp_path / "y.npz"
        np.savez(source, **arrays)
        result = effc("run", compiled[0], "--input", source, "-o", output, "--json")
        assert result.exit_code == 2
        text = words(error_of(result))
        assert all(word in text for word in expected), text
        assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]

    def test_everything_wrong_is_said_at_once(self, effc: Any, compiled: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
        np.savez(tmp_path / "x.npz", image=np.zeros((2, 3, 8, 8), np.int64), mask=np.zeros(2))
        assert len(error_of(effc("run", compiled[0], "--input", tmp_path / "x.npz", "--json"))["problems"]) == 3

    def test_a_pickle_is_refused_unread(self, effc: Any, compiled: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
        np.save(tmp_path / "x.npy", np.array([{"not": "numbers"}], object), allow_pickle=True)
        assert effc("run", compiled[0], "--input", tmp_path / "x.npy", "--json").exit_code == 2

    def test_a_model_is_no_data(self, effc: Any, compiled: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
        error = error_of(effc("run", compiled[0], "--input", DIGITS, "--json"))
        assert error["exit_code"] == 2
        assert "digits.onnx is a model, not data: --input takes a .npz" in error["message"]
        shutil.copy(DIGITS, tmp_path / "x.npz")
        hidden = error_of(effc("run", compiled[0], "--input", tmp_path / "x.npz", "--json"))
        assert hidden["exit_code"] == 2
        assert hidden["message"].endswith("x.npz is neither a sound .npz nor a .npy file: it does not begin as one")

    def test_preprocessing_of_arrays_is_refused(self, effc: Any, compiled: tuple[Path, dict[str, Any]]) -> None:
        error = error_of(effc("run", compiled[0], "--input", TEST, "--preprocess", "channels=1", "--json"))
        assert error["exit_code"] == 2
        assert "--preprocess" in error["message"] and "digits_test.npz holds arrays" in error["message"]

    @pytest.mark.parametrize("output", ["missing/y.npz", "y.csv", "folder.npz"])
    def test_output_that_cannot_be_written_is_two(
        self, effc: Any, compiled: tuple[Path, dict[str, Any]], tmp_path: Path, output: str
    ) -> None:
        (tmp_path / "folder.npz").mkdir()
        result = effc("run", compiled[0], "--input", TEST, "-o", tmp_path / output)
        assert result.exit_code == 2
        assert [path.name for path in tmp_path.iterdir()] == ["folder.npz"]

    @pytest.mark.parametrize("command", [("run", "--input", str(TEST)), ("verify",), ("bench",), ("inspect",)], ids=lambda c: c[0])
    def test_no_artifact_there_is_two(self, effc: Any, tmp_path: Path, command: tuple[str, ...]) -> None:
        result = effc(command[0], tmp_path / "nothing", *command[1:])
        assert result.exit_code == 2
        assert "nothing" in result.stderr


class TestAltered:
    @pytest.mark.parametrize("name", ["manifest.json", "params.safetensors", "model.so", "program.pt2", "golden.npz"])
    @pytest.mark.parametrize("command", [("run", "--input", str(TEST)), ("verify",), ("inspect",)], ids=lambda c: c[0])
    def test_one_byte_is_four_and_names_the_file(self, effc: Any, artifact: Path, name: str, command: tuple[str, ...]) -> None:
        content = bytearray((artifact / name).read_bytes())
        content[len(content) // 2] ^= 1
        (artifact / name).write_bytes(content)
        result = effc(command[0], artifact, *command[1:], "--json")
        error = error_of(result)
        assert error["exit_code"] == 4
        assert name in words(error)

    def test_a_missing_file_is_four(self, effc: Any, artifact: Path) -> None:
        (artifact / "golden.npz").unlink()
        assert error_of(effc("run", artifact, "--input", TEST, "--json"))["exit_code"] == 4


class TestCompile:
    def compile(self, effc: Any, out: Path, *arguments: object, model: Path = DIGITS) -> dict[str, Any]:
        result = effc("compile", model, "-o", out, "--json", *arguments)
        assert result.exit_code != 0
        return error_of(result)

    def test_missing_model_is_two(self, effc: Any, tmp_path: Path) -> None:
        error = self.compile(effc, tmp_path / "out", model=tmp_path / "missing.onnx")
        assert error["exit_code"] == 2
        assert "missing.onnx" in error["message"]
        assert list(tmp_path.iterdir()) == []

    def test_truncated_model_is_four(self, effc: Any, tmp_path: Path) -> None:
        model = tmp_path / "cut.onnx"
        model.write_bytes(DIGITS.read_bytes()[:20_000])
        assert self.compile(effc, tmp_path / "out", model=model)["exit_code"] == 4
        assert [path.name for path in tmp_path.iterdir()] == ["cut.onnx"]

    def test_nan_in_calibration_data_is_two(self, effc: Any, tmp_path: Path) -> None:
        x = np.load(TEST)["x"][:10].copy()
        x[3, 0, 0, 0] = np.nan
        np.savez(tmp_path / "calib.npz", x=x)
        error = self.compile(effc, tmp_path / "out", "--passes", "ranger", "--data", tmp_path / "calib.npz")
        assert error["exit_code"] == 2
        assert "index 3" in words(error)
        assert [path.name for path in tmp_path.iterdir()] == ["calib.npz"]

    def test_a_pass_without_its_data_is_two(self, effc: Any, tmp_path: Path) -> None:
        error = self.compile(effc, tmp_path / "out", "--passes", "ranger")
        assert error["exit_code"] == 2
        assert "--data" in error["message"]

    @pytest.mark.parametrize(
        ("arguments", "hint"),
        [
            (("--passes", "fold-batchnorm"), "fold-batch-norm"),
            (("--target", "aarch46"), "aarch64"),
            (("--metric", "top2"), "top1"),
            (("--input-shape", "x=0x3"), "name=1x3x32x32"),
            (("--limit", "node=5"), "nodes"),
            (("--max-drop", "0.01"), "--eval"),
            (("--max-drop", "-1"), "max-drop"),
            (("--config", "missing.toml"), "missing.toml"),
        ],
        ids=lambda value: value[0] if isinstance(value, tuple) else "",
    )
    def test_wrong_options_are_two_with_a_hint(self, effc: Any, tmp_path: Path, arguments: tuple[str, ...], hint: str) -> None:
        error = self.compile(effc, tmp_path / "out", *arguments)
        assert error["exit_code"] == 2
        assert hint in words(error)
        assert list(tmp_path.iterdir()) == []

    def test_someones_files_are_left_alone(self, effc: Any, tmp_path: Path) -> None:
        out = tmp_path / "out"
        out.mkdir()
        (out / "thesis.tex").write_text("years of work")
        error = self.compile(effc, out)
        assert error["exit_code"] == 2
        assert "thesis.tex" in error["message"]
        assert "--force" in error["message"]
        assert [(path.name, path.read_text()) for path in out.iterdir()] == [("thesis.tex", "years of work")]

    def test_a_file_in_the_way_is_two(self, effc: Any, tmp_path: Path) -> None:
        out = tmp_path / "out"
        out.write_text("mine")
        assert self.compile(effc, out)["exit_code"] == 2
        assert out.read_text() == "mine"

    def test_a_place_that_cannot_be_written_is_two(self, effc: Any) -> None:
        """/proc refuses new folders even to root."""
        assert self.compile(effc, Path("/proc/effc-out"))["exit_code"] == 2


def test_a_killed_compile_leaves_the_old_artifact_whole(effc: Any, artifact: Path, tmp_path: Path) -> None:
    """Killed while it works: the old artifact runs; the next compile replaces it and takes the leftovers away."""
    expected = load(artifact).artifact.manifest.digest
    dump = tmp_path / "ir"
    command = [str(EFFC), "compile", str(DIGITS), "--passes", "fold-batch-norm", "-o", str(artifact), "--dump-ir", str(dump)]
    _kill_when(command, (dump / "01-fold-batch-norm.txt").exists)
    assert load(artifact).manifest.digest == expected
    shutil.rmtree(dump)
    result = effc("compile", DIGITS, "--passes", "fold-batch-norm", "-o", artifact)
    assert result.exit_code == 0, result.output
    assert load(artifact).manifest.data["passes"] == ["fold-batch-norm"]
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]


def test_a_compile_that_is_refused_leaves_a_copy_beside_the_artifact_alone(effc: Any, artifact: Path, tmp_path: Path) -> None:
    for name in ("artifact.old", ".artifact.effc-old"):
        shutil.copytree(artifact, tmp_path / name)
    assert effc("compile", tmp_path / "missing.onnx", "-o", artifact).exit_code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [".artifact.effc-old", "artifact", "artifact.old"]
    shutil.rmtree(tmp_path / ".artifact.effc-old")
    shutil.rmtree(artifact)
    result = effc("run", artifact, "--input", TEST)
    assert result.exit_code == 2
    assert "there is nothing there" in result.stderr


def test_an_artifact_that_a_killed_compile_moved_aside_runs_and_says_so(effc: Any, artifact: Path, tmp_path: Path) -> None:
    artifact.rename(tmp_path / ".artifact.effc-old")
    result = effc("run", artifact, "--input", TEST, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["samples"] > 0
    assert result.stderr.count("warning: ") == 1
    assert "a compile was killed while it replaced it" in result.stderr


@pytest.mark.slow
def test_a_compile_killed_while_it_writes_leaves_one_whole_artifact(effc: Any, artifact: Path, tmp_path: Path) -> None:
    """Killed as soon as something stands beside the old artifact, again and again, until one compile is through."""
    dump = tmp_path / "elsewhere" / "ir"
    command = [str(EFFC), "compile", str(DIGITS), "-o", str(artifact), "--dump-ir", str(dump)]
    for delay in (0.0, 0.002, 0.01):
        shutil.rmtree(dump, ignore_errors=True)

        def writing() -> bool:
            return (dump / "00-source.txt").exists() and len(list(tmp_path.iterdir())) > 2

        _kill_when(command, writing, delay)
        assert load(artifact).run({"image": np.load(TEST)["x"][:1]})["logits"].shape == (1, 10)
    assert effc("compile", DIGITS, "-o", artifact).exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifact", "elsewhere"]


def _kill_when(command: list[str], ready: Any, delay: float = 0.0) -> None:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 120
        while process.poll() is None and not ready() and time.monotonic() < end:
            time.sleep(0.0005)
        time.sleep(delay)
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
