"""The commands on the bundled digits network: what they print, what they write, and that two compiles give the same bytes."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effc.cli.main import COMMANDS
from effc.runtime import load, open_artifact

ROOT = Path(__file__).resolve().parents[2]
DIGITS, CALIBRATION, TEST = (ROOT / "examples" / name for name in ("digits.onnx", "digits_calibration.npz", "digits_test.npz"))
PASSES = "eliminate-dead,fold-constants,fold-batch-norm,ranger"


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


class TestCompile:
    def test_the_json_document_holds_the_verdicts(self, compiled: tuple[Path, dict[str, Any]]) -> None:
        _, document = compiled
        assert document["verification"]["passed"]
        assert document["quality"]["samples"] == 450
        assert document["quality"]["after"] >= 0.97
        assert document["quality"]["drop"] <= 0.01
        specs = {entry["spec"]: entry for entry in document["passes"]}
        assert list(specs) == PASSES.split(",")
        assert specs["fold-batch-norm"]["nodes_after"] == specs["fold-batch-norm"]["nodes_before"] - 3

    def test_the_artifact_holds_what_the_design_lists(self, compiled: tuple[Path, dict[str, Any]]) -> None:
        out, _ = compiled
        names = set(open_artifact(out).manifest.files)
        assert {"model.so", "params.safetensors", "program.pt2", "golden.npz", "config.toml"} <= names
        assert [name for name in sorted(names) if name.startswith("checks/")] == [
            "checks/00-source.npz",
            *(f"checks/{index:02}-{name}.npz" for index, name in enumerate(PASSES.split(","), 1)),
        ]
        assert {"report.html", "report.json", "measurements.json"} <= {path.name for path in out.iterdir()}
        assert tomllib.loads((out / "config.toml").read_text())["max-drop"] == 0.01
        parameters = open_artifact(out).manifest.data["parameters"]
        assert {entry["kind"] for entry in parameters.values()} <= {"same", "permutation", "packed", "transformed"}

    def test_two_compiles_give_the_same_bytes(self, effc: Any, compiled: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
        """From another folder, with the data under the same names: no path may leak."""
        for path in (DIGITS, CALIBRATION, TEST):
            shutil.copy(path, tmp_path)
        config = tmp_path / "effc.toml"
        config.write_text(f'passes = "{PASSES}"\ndata = "{CALIBRATION.name}"\neval = "{TEST.name}"\nmax-drop = 0.5\n')
        out = tmp_path / "again"
        result = effc("compile", tmp_path / DIGITS.name, "--config", config, "--max-drop", "0.01", "-o", out)
        assert result.exit_code == 0, result.output
        outside = {"report.html", "report.json", "measurements.json"}
        first, second = digests(compiled[0]), digests(out)
        assert {name: first[name] for name in first if name not in outside} == {
            name: second[name] for name in second if name not in outside
        }

    def test_explain_dump_and_onnx(self, effc: Any, tmp_path: Path) -> None:
        out, dump = tmp_path / "out", tmp_path / "ir"
        passes = "eliminate-dead,fold-batch-norm"
        result = effc("compile", DIGITS, "--passes", passes, "--emit", "onnx", "--explain", "--dump-ir", dump, "-o", out)
        assert result.exit_code == 0, result.output
        assert "folded into" in result.stdout
        assert re.search(r"eliminate-dead +nothing to do", result.stdout) and "0 of 0" not in result.stdout
        assert "nothing to do, 13 → 13 operators" in (out / "report.html").read_text()
        texts = sorted(dump.iterdir())
        assert [path.name for path in texts] == ["00-source.txt", "01-eliminate-dead.txt", "02-fold-batch-norm.txt", "03-relax.txt"]
        assert "batch_norm(" in texts[1].read_text()
        assert "batch_norm(" not in texts[2].read_text()
        assert 'data_layout="NHWC", kernel_layout="OHWI"' in texts[3].read_text()  # as an extension's patterns meet it
        import onnxruntime

        x = np.load(TEST)["x"][:5]
        session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
        [theirs] = session.run(None, {session.get_inputs()[0].name: x})
        np.testing.assert_allclose(load(out).run({"image": x})["logits"], theirs, atol=1e-4 * np.abs(theirs).max())

    def test_a_missed_gate_is_one_and_writes_nothing(self, effc: Any, tmp_path: Path) -> None:
        """Ranger fitted on dark images clamps everything: accuracy must fall, and the gate must see it."""
        dark = tmp_path / "dark.npz"
        np.savez(dark, x=np.load(CALIBRATION)["x"][:20] * np.float32(1e-3))
        out = tmp_path / "out"
        result = effc("compile", DIGITS, "--passes", "ranger", "--data", dark, "--eval", TEST, "--max-drop", "0.01", "-o", out, "--json")
        error = json.loads(result.stdout)["error"]
        assert (result.exit_code, error["type"]) == (1, "GateFailed")
        assert re.search(r"top1 on 450 held-out samples fell from \d\.\d+ to \d\.\d+", error["message"])
        assert not out.exists()


class TestRun:
    @pytest.mark.parametrize("kind", ["npz", "npy"])
    def test_outputs_are_those_of_the_session(self, effc: Any, compiled: tuple[Path, dict[str, Any]], tmp_path: Path, kind: str) -> None:
        x = np.load(TEST)["x"][:7]
        source, output = tmp_path / f"x.{kind}", tmp_path / f"y.{kind}"
        np.savez(source, image=x) if kind == "npz" else np.save(source, x)
        result = effc("run", compiled[0], "--input", source, "-o", output, "--json")
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["outputs"]["logits"]["shape"] == [7, 10]
        written = np.load(output)
        logits = written["logits"] if kind == "npz" else written
        np.testing.assert_array_equal(logits, load(compiled[0]).run({"image": x})["logits"])
        assert (logits.argmax(1) == np.load(TEST)["y"][:7]).all()


class TestVerify:
    def test_against_program_source_and_data(self, effc: Any, compiled: tuple[Path, dict[str, Any]]) -> None:
        result = effc("verify", compiled[0], "--source", DIGITS, "--data", TEST, "--json")
        assert result.exit_code == 0, result.output
        document = json.loads(result.stdout)
        assert document["passed"]
        assert document["lossy_passes"] == ["ranger"]
        must_hold = [finding for finding in document["findings"] if finding["must_hold"]]
        assert len(must_hold) >= 3
        assert all(finding["passed"] for finding in must_hold)

    def test_another_source_is_five_and_says_since_when(self, effc: Any, compiled: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
        import onnx

        model = onnx.load(DIGITS)
        bias = next(tensor for tensor in model.graph.initializer if tensor.name == "classifier.bias")
        bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(1), bias.name))
        other = tmp_path / "other.onnx"
        onnx.save(model, other)
        result = effc("verify", compiled[0], "--source", other)
        assert result.exit_code == 5
        assert "import of the source" in result.stdout
        assert "NOT verified: the source is not the file that the artifact was compiled from" in result.stdout


class TestOthers:
    def test_inspect(self, effc: Any, compiled: tuple[Path, dict[str, Any]]) -> None:
        text = effc("inspect", DIGITS)
        assert text.exit_code == 0
        assert "input image: float32[batch, 1, 8, 8]" in text.stdout
        artifact = effc("inspect", compiled[0], "--text")
        assert "effc.bound(" in artifact.stdout
        assert "model.so" in artifact.stdout
        stored = json.loads(effc("inspect", compiled[0] / "program.pt2", "--json").stdout)
        assert stored["provenance"]["passes"] == PASSES.split(",")
        assert stored["facts"]

    def test_weights_are_one_number_everywhere(self, effc: Any, compiled: tuple[Path, dict[str, Any]]) -> None:
        out, document = compiled
        plan = open_artifact(out).manifest.plan
        assert plan is not None
        number = f"{plan.parameter_bytes / 1000:,.1f} kB"
        assert document["facts"]["weights"] == f"{number} in memory"
        assert f"{number} weights" in effc("inspect", out).stdout
        assert f"Weights take {number} besides" in (out / "report.html").read_text()

    def test_check(self, effc: Any) -> None:
        document = json.loads(effc("check", DIGITS, "--json").stdout)
        assert document["supported"]
        assert document["operators"]["Conv"] == 3

    def test_open_sizes_are_an_error_of_their_own(self, effc: Any, tmp_path: Path) -> None:
        import onnx
        from onnx import TensorProto, helper

        x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, "height"]) for name in "xy")
        graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "open", [x], [y])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "open.onnx")
        result = effc("check", tmp_path / "open.onnx")
        assert result.exit_code == 2
        assert "open.onnx: opset 17, 1 node\n" in result.stdout
        assert result.stderr.startswith("error: the model leaves sizes open")
        assert "--input-shape x=1x3x8" in result.stderr and "--input-shape" not in result.stdout
        assert effc("check", tmp_path / "open.onnx", "--input-shape", "x=1x3x8").exit_code == 0

    def test_bench(self, effc: Any, compiled: tuple[Path, dict[str, Any]]) -> None:
        arguments = ("--blocks", "2", "--seconds", "0.02", "--warm-up", "0.05", "--threads", "1", "--json")
        result = effc("bench", compiled[0], "--against", "onnxruntime", "--model", DIGITS, *arguments)
        assert result.exit_code == 0, result.output
        document = json.loads(result.stdout)
        assert [timing["label"] for timing in document["timings"]] == ["effc", "onnxruntime"]
        assert document["ratios"][0]["value"] > 0

    @pytest.mark.parametrize("command", ["passes", "targets"])
    def test_lists(self, effc: Any, command: str) -> None:
        names = {entry["name"] for entry in json.loads(effc(command, "--json").stdout)[command]}
        assert {"passes": "ranger", "targets": "cpu"}[command] in names
        assert all(name in effc(command).stdout for name in names)

    def test_doctor(self, effc: Any) -> None:
        result = effc("doctor", "--json")
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["well"]

    def test_doctor_says_what_a_microcontroller_needs(self, effc: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        real = shutil.which
        monkeypatch.setattr(shutil, "which", lambda tool, *rest, **named: None if "arm" in tool else real(tool, *rest, **named))
        result = effc("doctor", "--json")
        assert result.exit_code == 0, "C for it can be made without"
        found = {one["what"]: one for one in json.loads(result.stdout)["findings"]}
        compiler, emulator = found["compiler for cortex-m4"], found["emulator for cortex-m4"]
        assert (compiler["well"], compiler["fix"]) == (
            False,
            "install arm-none-eabi-gcc (Debian: gcc-arm-none-eabi libnewlib-arm-none-eabi)",
        )
        assert not emulator["well"]
        assert "qemu-system-arm" in emulator["fix"]
        assert "linker for cortex-m4" not in found

    def test_every_command_is_tested_here(self) -> None:
        # faultsim, stream and model-npu have files of their own: test_faultsim.py, test_stream.py, test_model_npu.py
        assert set(COMMANDS) == {
            "compile",
            "run",
            "verify",
            "inspect",
            "estimate",
            "model-npu",
            "check",
            "bench",
            "passes",
            "targets",
            "doctor",
            "faultsim",
            "stream",
        }
