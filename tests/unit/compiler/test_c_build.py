"""Artifacts of C sources: tried with the compilers and boards that are here, and verified with them; what cannot run them says so."""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from effc.cli.main import cli
from effc.compiler import compile_model
from effc.compiler.c_build import CannotTryError, c_files, missing_tools, run_here, run_on_board
from effc.compiler.c_self_tests import SourcesTrial, self_tests
from effc.compiler.c_session import c_session
from effc.compiler.c_vectors import golden_calls
from effc.compiler.estimating import estimate
from effc.compiler.golden import golden_inputs
from effc.compiler.settings import settings_of
from effc.compiler.verification import verify_artifact
from effc.errors import ConfigError, DataError, GateFailed, MissingDependencyError, VerificationError
from effc.ir import Batch, Program, Provenance
from effc.lowering import Lowered, lower
from effc.lowering.c99.sources import GoldenCall, c_sources
from effc.lowering.toolchain import compiler_name
from effc.runtime import load, open_artifact
from effc.targets import find_target

needs_compiler = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
BOARDS = ["cortex-m0", "cortex-m3", "cortex-m4", "cortex-m7", "cortex-m33", "riscv32"]


def needs_board(name: str) -> None:
    lacking = missing_tools(find_target(name))
    if lacking:
        pytest.skip(f"needs {', '.join(lacking)}")


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.linear = nn.Conv2d(1, 4, 3, 2), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.linear(torch.relu(self.conv(x)).amax((2, 3))), -1)


@pytest.fixture(scope="module")
def small() -> tuple[Lowered, list[GoldenCall]]:
    exported = torch.export.export(Small().eval(), (torch.zeros(1, 1, 7, 6),))
    program = Program.from_exported(exported, Provenance("net", "torch", "0"), batch=Batch(False))
    lowered = lower(program, find_target("c99"))
    return lowered, golden_calls(program, golden_inputs(program, None, 0), lowered)


@pytest.mark.parametrize("name", BOARDS)
def test_boards_run_the_self_test_and_report_a_wrong_output(name: str, small: tuple[Lowered, list[GoldenCall]]) -> None:
    needs_board(name)
    lowered, calls = small
    target = find_target(name)
    run = run_on_board(c_sources("net", lowered, calls, target, "effc"), target, ["-O2", "-Werror"])
    assert run.emulator == f"QEMU's {target.board}"
    (output,) = calls[0].outputs
    wrong = [GoldenCall(calls[0].inputs, {output: calls[0].outputs[output] + np.float32(0.001)})]
    with pytest.raises(VerificationError, match="status 1: an output"):
        run_on_board(c_sources("net", lowered, wrong, target, "effc"), target)


def test_weights_beyond_the_board_are_no_failure(small: tuple[Lowered, list[GoldenCall]]) -> None:
    needs_board("cortex-m4")
    lowered, calls = small
    assert lowered.plan is not None
    target = find_target("cortex-m4")
    sources = c_sources("net", lowered, calls, target, "effc")
    sources["qemu/board.ld"] = sources["qemu/board.ld"].replace(b"LENGTH = 4M", b"LENGTH = 1K", 1)
    with pytest.raises(CannotTryError, match=r"bytes more than the 4 MiB that QEMU's mps2-an386 has of FLASH; .*larger board"):
        run_on_board(sources, target)


def test_the_boards_memory_stands_once(small: tuple[Lowered, list[GoldenCall]], monkeypatch: pytest.MonkeyPatch) -> None:
    lowered, calls = small
    monkeypatch.setattr("effc.lowering.c99.building.BOARD_MIB", 3)
    assert c_sources("net", lowered, calls, find_target("riscv32"), "effc")["qemu/board.ld"].count(b"LENGTH = 3M") == 2


def test_a_model_that_is_too_large_for_the_board_is_not_sent_there(
    small: tuple[Lowered, list[GoldenCall]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lowered, calls = small
    target = find_target("cortex-m4")
    monkeypatch.setattr("effc.lowering.c99.building._BOARD_BYTES", 65536 + 100)
    sources = c_sources("net", lowered, calls, target, "effc")
    assert "make qemu     says why" in sources["Makefile"].decode()
    assert not any(name.startswith("qemu/") for name in sources)
    monkeypatch.setattr("effc.compiler.c_build.missing_tools", lambda target: [])
    with pytest.raises(CannotTryError, match=r"larger than the memory of QEMU's mps2-an386.*larger board"):
        run_on_board(sources, target)
    if shutil.which("make") is not None:
        (tmp_path / "Makefile").write_bytes(sources["Makefile"])
        done = subprocess.run(["make", "qemu"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode != 0 and "the self-test needs over" in done.stderr and "make test" in done.stderr


# ---- compilers that cannot -------------------------------------------------------------------------------------------------------


def test_compilers_are_named_as_their_users_call_them() -> None:
    assert compiler_name(["cc"]) == "cc" and compiler_name(["/usr/bin/gcc", "-O1"]) == "gcc"
    assert compiler_name([sys.executable, "-m", "ziglang", "cc", "-target", "x86_64-linux-gnu"]) == "zig cc"


def pretend(says: str, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str = "cc") -> None:
    """A C compiler, or another tool, that does what a shell script says."""
    folder.mkdir(exist_ok=True)
    tool = folder / name
    tool.write_text(f"#!/bin/sh\n{says}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


@pytest.mark.parametrize(
    ("says", "why", "limit"),
    [
        ("sleep 600", "cc did not compile them within 1 s", 1.0),
        ("printf '#!/bin/sh\\nsleep 600' > self_test; chmod +x self_test", "the self-test did not end within 1 s", 1.0),
        ("echo 'fatal error: Killed signal terminated program cc1' >&2; exit 1", "cc was killed, or ran out of memory", 600.0),
        ("kill -9 $$", "cc was killed", 600.0),
        ("echo text > self_test", "self_test cannot be started", 600.0),
    ],
)
def test_what_this_machine_cannot_try_is_no_failure_of_the_sources(
    says: str, why: str, limit: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(says, tmp_path / "a 'folder'", monkeypatch)
    monkeypatch.setattr("effc.compiler.c_build._TIMEOUT", limit)
    (found,) = self_tests({"net.c": b""}, find_target("c99"))
    assert found.passed is None and why in found.said and found.text.startswith("NOT RUN") and found.how
    notes = SourcesTrial(None, (found,)).notes
    assert "NOTHING HAS CHECKED" in notes[0] and why in notes[1]


def test_a_compiler_that_refuses_the_sources_and_a_self_test_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend("echo 'net.c:1: no' >&2; exit 1", tmp_path / "refuses", monkeypatch)
    with pytest.raises(VerificationError, match=r"cc refuses the C sources:\nnet\.c:1: no"):
        run_here({"net.c": b""})
    pretend("printf '#!/bin/sh\\nexit 1' > self_test; chmod +x self_test", tmp_path / "fails", monkeypatch)
    (found,) = self_tests({"net.c": b""}, find_target("c99"))
    assert found.passed is False and "fails on this machine with status 1: an output is not the program's" in found.said


def test_an_emulator_that_cannot_run_is_no_wrong_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, folder = find_target("cortex-m4"), tmp_path / "tools"
    pretend("exit 0", folder, monkeypatch, target.compiler)
    said = "qemu-system-arm: warning: slow\\nqemu-system-arm: unsupported machine type\\nUse -machine help"
    pretend(f"printf '{said}' >&2; exit 1", folder, monkeypatch, "qemu-system-arm")
    with pytest.raises(CannotTryError, match="qemu-system-arm cannot run the self-test: unsupported machine type; make in c/"):
        run_on_board({"qemu/board.ld": b""}, target)
    pretend("echo 'qemu-system-arm: warning: slow' >&2; exit 1", folder, monkeypatch, "qemu-system-arm")
    with pytest.raises(VerificationError, match="status 1: an output"):
        run_on_board({"qemu/board.ld": b""}, target)


# ---- artifacts -------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    out = tmp_path_factory.mktemp("c") / "out"
    result = compile_model(Small().eval(), out, target="cortex-m4", example_inputs=(torch.zeros(1, 1, 7, 6),))
    assert result.manifest.executor == "c"
    assert result.trial is None and result.emulated is not None
    facts = dict(result.report.facts)
    assert facts["code"] == "C99 sources in c/" and facts["self-test on this machine"].startswith("passed")
    plan = result.manifest.plan
    assert plan is not None and f"bytes: arena {plan.arena_bytes:,}, the caller's inputs 168 " in facts["RAM"]
    assert f"bytes: weights {sum(one.size for one in plan.in_room('parameter')):,}, code " in facts["flash"]
    assert not {"weights", "scratch memory", "peak memory of a call"} & facts.keys() and "a run" not in facts["batch"]
    assert "µs</th>" not in (out / "report.html").read_text(), "no step was timed"
    return out


def test_an_artifact_can_be_estimated(artifact: Path) -> None:
    found, plan = estimate(settings_of({}), artifact), open_artifact(artifact).manifest.plan
    assert plan is not None and (found.target, found.arena_bytes) == ("cortex-m4", plan.arena_bytes)
    with pytest.raises(ConfigError, match=r"is an artifact, .*: passes cannot be given"):
        estimate(settings_of({"passes": "ranger"}), artifact)


def test_what_cannot_run_sources_says_how_to_build_them(artifact: Path) -> None:
    with pytest.raises(DataError, match=r"holds C sources for 'cortex-m4'.*make -C .*/c test.*effc verify"):
        load(artifact)
    np.save(artifact.parent / "x.npy", np.zeros((1, 1, 7, 6), np.float32))
    for command in ("run", "bench", "stream"):
        found = CliRunner().invoke(cli, [command, str(artifact), "--input", str(artifact.parent / "x.npy")])
        assert found.exit_code == 2 and "holds C sources" in found.stderr, (command, found.output)
    quoted = artifact.parent / "it's $(a) folder"
    shutil.copytree(artifact, quoted)
    with pytest.raises(DataError) as caught:
        load(quoted)
    assert f"`effc verify {shlex.quote(str(quoted))}`" in str(caught.value)
    assert verify_artifact(quoted).passed
    shown = CliRunner().invoke(cli, ["inspect", str(artifact)], catch_exceptions=False)
    assert shown.exit_code == 0 and "c/effc_Small.h" in shown.output


def test_verify_builds_and_calls_them(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = verify_artifact(artifact)
    assert verdict.passed
    assert [one.what for one in verdict.findings][2] == "self-test of the C sources, this machine (0: it passed)"
    assert verdict.extent.startswith("the self-test passed on this machine (built by cc -O1)")
    assert any("mps2-an386" in text for text in [*verdict.notes, *(one.what for one in verdict.findings)])
    (artifact / "c" / "self_test").write_bytes(b"")  # what `make test` leaves
    again = compile_model(Small().eval(), artifact, target="cortex-m4", example_inputs=(torch.zeros(1, 1, 7, 6),))
    assert not (artifact / "c" / "self_test").exists()
    assert again.manifest.digest == open_artifact(artifact).manifest.digest
    monkeypatch.setattr("effc.lowering.toolchain.shutil.which", lambda name: None)
    monkeypatch.setattr("effc.lowering.toolchain.importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError) as caught:
        verify_artifact(artifact)
    assert caught.value.exit_code == 6


def test_verify_says_that_the_target_itself_was_not_tried(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effc.compiler.c_build.missing_tools", lambda target: ["arm-none-eabi-gcc"])
    shown = CliRunner().invoke(cli, ["verify", str(artifact)], catch_exceptions=False)
    assert shown.exit_code == 0
    assert "did NOT RUN on QEMU's mps2-an386" in shown.output.splitlines()[-1]
    document = json.loads(CliRunner().invoke(cli, ["verify", str(artifact), "--json"], catch_exceptions=False).stdout)
    assert [one["passed"] for one in document["self_tests"]] == [True, None]
    assert document["self_tests"][1]["said"] == "arm-none-eabi-gcc not installed" and "make qemu" in document["self_tests"][1]["how"]


def test_a_session_of_sources_computes_batches(artifact: Path) -> None:
    session = c_session(artifact)
    x = np.random.default_rng(0).standard_normal((1, 1, 7, 6), np.float32)
    (found,) = session.run({session.inputs[0].name: x}).values()
    np.testing.assert_allclose(found, Small()(torch.from_numpy(x)).detach().numpy(), atol=1e-6)


@needs_compiler
def test_c_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    contents = sys.modules["effc.compiler.backends"]
    honest = contents.c_sources

    def changed(name: str, lowered: Lowered, *rest: object, **options: object) -> dict[str, bytes]:
        weights = {key: array + np.float32(0.01) for key, array in lowered.parameters.items()}
        return honest(name, dataclasses.replace(lowered, parameters=weights), *rest, **options)

    monkeypatch.setattr(contents, "c_sources", changed)
    with pytest.raises(VerificationError) as caught:
        compile_model(Small().eval(), tmp_path / "out", target="c99", example_inputs=(torch.zeros(1, 1, 7, 6),))
    assert caught.value.exit_code == 5
    assert not (tmp_path / "out").exists()


def test_a_model_over_its_budget_is_not_written(tmp_path: Path) -> None:
    example = (torch.zeros(1, 1, 7, 6),)
    for budget, what in (
        ({"max_ram": 64}, "RAM is over its budget of 64 bytes"),
        ({"max_flash": "1k"}, "flash is over its budget of 1,024"),
    ):
        with pytest.raises(GateFailed, match=what):
            compile_model(Small().eval(), tmp_path / "out", target="cortex-m4", example_inputs=example, **budget)
        assert not (tmp_path / "out").exists()


def test_without_any_compiler_sources_are_written_with_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effc.lowering.toolchain.shutil.which", lambda name: None)
    monkeypatch.setattr("effc.lowering.toolchain.importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("effc.compiler.c_build.shutil.which", lambda name: None)
    result = compile_model(Small().eval(), tmp_path / "out", target="cortex-m4", example_inputs=(torch.zeros(1, 1, 7, 6),))
    assert result.emulated is None
    assert any("NOTHING HAS CHECKED" in note for note in result.report.notes)
    assert any("no C compiler is installed" in note for note in result.report.notes)
    assert any("arm-none-eabi-gcc" in note for note in result.report.notes)
    assert dict(result.report.facts)["self-test on this machine"].startswith("NOT RUN: no C compiler")
    measured = json.loads((tmp_path / "out" / "measurements.json").read_text())
    assert measured["verification"] is None and [one["passed"] for one in measured["self_tests"]] == [None, None]
    assert set(c_files(dict.fromkeys(result.manifest.files, b""))) >= {"effc_Small.c", "qemu/start.c"}


@needs_compiler
def test_a_strided_transposed_convolution(tmp_path: Path) -> None:
    """Its kernel declares one buffer over another one, which was declared over an argument."""
    torch.manual_seed(0)
    net, x = nn.ConvTranspose2d(3, 4, 2, stride=2).eval(), torch.randn(1, 3, 4, 5)
    result = compile_model(net, tmp_path / "out", target="c99", example_inputs=(x,))
    assert result.sources is not None and result.sources.runs[0].text.startswith("passed")
    (got,) = c_session(tmp_path / "out").run({"input": x.numpy()}).values()
    assert np.allclose(got, net(x).detach().numpy(), rtol=0, atol=1e-6)
