"""Code for other machines: its static self-test passes under an emulator, and a missing linker is one clear error."""

from __future__ import annotations

import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from effc.cli.doctor import _machine
from effc.compiler import compile_model
from effc.compiler.crosscheck import SELF_TEST, CannotEmulateError, run_emulated
from effc.compiler.verification import verify_artifact
from effc.errors import DataError, EffcWarning, MissingDependencyError, VerificationError
from effc.lowering import toolchain
from effc.lowering.chip import processor
from effc.lowering.toolchain import compiler_for, link_shared
from effc.runtime import load
from effc.targets import Target, find_target
from effc.targets.emulators import emulator_for, emulator_install
from effc.targets.rates import Level, Rates, dump_rates
from tests.unit.targets.extension_packages import packages_on_the_path

OTHERS = ["aarch64", "riscv64"]
EVERY = [*OTHERS, "aarch64-dotprod", "riscv64-v128", "riscv64-v256", "hexagon-v67"]


def needs_tools(name: str) -> None:
    """Skip where this machine cannot link for, or emulate, the target."""
    target = find_target(name)
    if target.runs_here:
        pytest.skip(f"this machine is {name} itself")
    try:
        compiler_for(target, static=True)
    except MissingDependencyError as error:
        pytest.skip(str(error))
    if emulator_for(target) is None:
        pytest.skip(emulator_install(target))


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_the_self_test_passes_under_an_emulator_and_notices_a_wrong_weight(name: str, tmp_path: Path) -> None:
    needs_tools(name)
    result = compile_model("examples/digits.onnx", tmp_path / "out", passes="fold-batch-norm", target=name)
    assert result.trial is None
    assert result.emulated is not None
    assert "PASS" in result.emulated.text
    executable = (tmp_path / "out" / SELF_TEST).read_bytes()
    again = compile_model("examples/digits.onnx", tmp_path / "again", passes="fold-batch-norm", target=name)
    assert (tmp_path / "again" / SELF_TEST).read_bytes() == executable
    assert again.manifest.digest == result.manifest.digest
    weight = max(_weights(tmp_path / "out").values(), key=lambda array: array.size)
    raw = weight.tobytes()[:64]
    assert executable.count(raw) == 1
    damaged = executable.replace(raw, (weight.reshape(-1)[:16] + np.float32(1)).tobytes())
    with pytest.raises(VerificationError, match="self-test"):
        run_emulated(damaged, find_target(name))


class Families(nn.Module):
    """A layer for every kernel family, in sizes that are no multiples of anything."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 13, 5, 2, 1), nn.Conv2d(13, 26, 3, dilation=2, groups=13)
        self.wide, self.plain, self.depthwise = nn.Conv2d(26, 37, 1), nn.Conv2d(37, 37, 3, padding=1), nn.Conv2d(37, 37, 3, 2, 1, groups=37)
        self.encoder = nn.TransformerEncoderLayer(37, 1, 51, activation="gelu", batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.hardswish(self.deep(functional.relu6(self.stem(x))))
        x = functional.silu(self.plain(self.wide(x)) + self.wide(x))
        x = functional.max_pool2d(self.depthwise(x), 3, 1, 1) + functional.avg_pool2d(self.depthwise(x), 3, 1, 1)
        tokens = self.encoder(x.flatten(2).transpose(1, 2))
        return torch.softmax(tokens.mean(1), -1)


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("winograd", ["off", "f2"])
def test_every_family_is_right_in_other_vectors(name: str, winograd: str, tmp_path: Path) -> None:
    needs_tools(name)
    torch.manual_seed(0)
    settings = {"example_inputs": (torch.randn(1, 3, 31, 29),), "target": name, "winograd": winograd}
    result = compile_model(Families().eval(), tmp_path / "out", **settings)
    assert result.emulated is not None
    assert "PASS" in result.emulated.text
    assert result.manifest.plan is not None
    families = {step.family for step in result.manifest.plan.steps}
    assert families >= {"conv", "depthwise", "pool", "matmul", "attention", "rows"} | ({"winograd"} if winograd == "f2" else set())


class Gated(nn.Module):
    """What skips: a gate with its few largest, and layers behind zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(37, 101), nn.Linear(37, 101), nn.Linear(101, 37)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = functional.silu(torch.ops.effc.statistical_top_k(self.gate(x), 0.8, "hard"))
        return self.down(torch.ops.effc.keep_top_k(functional.relu(self.down(gate * self.up(x))), 9).repeat(1, 3)[:, :101])


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("weights", ["", ",half-weights", ",half-weights{dtype=float16}"], ids=["float32", "bfloat16", "float16"])
def test_skipping_is_right_in_other_vectors(name: str, weights: str, tmp_path: Path) -> None:
    needs_tools(name)
    torch.manual_seed(0)
    free, target = Level(1e-6, 1e6, 0.0), find_target(name)
    (tmp_path / "rates.json").write_text(dump_rates(Rates(free, free, 0.0), processor(target)))
    data = np.random.default_rng(0).standard_normal((16, 37), np.float32)
    settings = {"example_inputs": (torch.randn(1, 37),), "target": name, "rates": tmp_path / "rates.json", "data": data}
    result = compile_model(Gated().eval(), tmp_path / "out", passes=f"profile{weights}", **settings)
    assert result.emulated is not None
    assert "PASS" in result.emulated.text
    assert result.manifest.plan is not None
    assert {step.family for step in result.manifest.plan.steps} >= {"skipping", "masked", "rows"}


def _weights(artifact: Path) -> dict[str, np.ndarray]:
    from effc.runtime.artifact import open_artifact

    return open_artifact(artifact).parameters()


def test_without_any_linker_there_is_one_error_and_no_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = next(name for name in OTHERS if not find_target(name).runs_here)
    monkeypatch.setattr("effc.lowering.toolchain.shutil.which", lambda name: None)
    monkeypatch.setattr("effc.lowering.toolchain.importlib.util.find_spec", lambda name: None)

    def too_late(*_: object, **__: object) -> None:
        raise AssertionError("the model was read although nothing can be linked")

    monkeypatch.setattr("effc.compiler.compile.read_model", too_late)
    with pytest.raises(MissingDependencyError, match=r"effc\[cross\]") as caught:
        compile_model("examples/digits.onnx", tmp_path / "out", target=other)
    assert caught.value.exit_code == 6
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("installed", "found"),
    [({"qemu-{}-static"}, "qemu-{}-static"), ({"qemu-{}"}, "qemu-{}"), ({"qemu-{}", "qemu-{}-static"}, "qemu-{}-static"), (set(), None)],
)
def test_doctor_finds_the_emulator_that_a_compile_runs(installed: set[str], found: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    target = next(find_target(name) for name in OTHERS if not find_target(name).runs_here)
    tools = {name.format(target.architecture) for name in installed} | {"cc", f"{target.architecture}-linux-gnu-gcc"}
    monkeypatch.setattr("effc.lowering.toolchain.shutil.which", lambda name: f"/usr/bin/{name}" if name in tools else None)
    expected = None if found is None else found.format(target.architecture)
    assert emulator_for(target) == expected
    (finding,) = [finding for finding in _machine() if finding.what == f"emulator for {target.name}"]
    assert (finding.found, finding.well) == (expected or "none", expected is not None)
    ran: list[str] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        ran.append(command[0])
        return subprocess.CompletedProcess(command, 0, "PASS", "")

    monkeypatch.setattr("effc.compiler.crosscheck.subprocess.run", run)
    if expected is None:
        with pytest.raises(CannotEmulateError, match="install qemu-"):
            run_emulated(b"", target)
    else:
        run_emulated(b"", target)
    assert ran == ([] if expected is None else [expected])


@pytest.mark.parametrize("right", [True, False])
def test_without_an_emulator_the_program_is_lowered_and_tried_here(right: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = next(name for name in OTHERS if not find_target(name).runs_here)
    monkeypatch.setattr("effc.compiler.backends.compiler_for", lambda *_, **__: None)
    monkeypatch.setattr(sys.modules["effc.lowering.backends"], "link_shared", lambda objects, target: _linked(objects, target, other))
    monkeypatch.setattr("effc.compiler.crosscheck.link_static", lambda *_: b"a program for another machine")
    monkeypatch.setattr("effc.compiler.crosscheck.emulator_for", lambda target: None)
    if not right:
        monkeypatch.setattr("effc.compiler.crosscheck.run_lowered", lambda *_, **__: {"logits": np.ones((1, 10), np.float32)})
        with pytest.raises(VerificationError, match="tried on this machine"):
            compile_model("examples/digits.onnx", tmp_path / "out", target=other)
        assert not (tmp_path / "out").exists()
        return
    result = compile_model("examples/digits.onnx", tmp_path / "out", target=other)
    assert result.trial is None and result.emulated is None
    assert any("lowered for this machine, gave the right results" in note for note in result.report.notes)


def _linked(objects: tuple[bytes, ...], target: Target, other: str) -> bytes:
    return b"a library for another machine" if target.name == other else link_shared(objects, target)


@pytest.mark.parametrize("tool", ["ziglang", "gcc"])
def test_a_first_build_that_takes_long_says_why(tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = "import pathlib, sys, time; time.sleep(0.3); pathlib.Path(sys.argv[sys.argv.index('-o') + 1]).write_bytes(b'code')"
    monkeypatch.setattr("effc.lowering.toolchain.compiler_for", lambda *_, **__: [sys.executable, "-c", slow, tool])
    monkeypatch.setattr("effc.lowering.toolchain._PATIENCE", 0.05)
    toolchain._say_why.cache_clear()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert link_shared([b""], find_target("aarch64")) == link_shared([b""], find_target("aarch64")) == b"code"
    expected = ["the first build for aarch64 takes about a minute: zig builds its C library"] if tool == "ziglang" else []
    assert [str(entry.message) for entry in said if issubclass(entry.category, EffcWarning)] == expected


class Ordered(nn.Module):
    """Sorting does not plan: it runs on TVM's virtual machine."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sort()[0]


def test_code_for_the_virtual_machine_is_linked_by_zig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ziglang", reason="the ziglang wheel is not installed")
    other, number = next((one, elf) for one, elf in (("aarch64", 183), ("riscv64", 243)) if not find_target(one).runs_here)
    which = shutil.which
    monkeypatch.setattr("effc.lowering.toolchain.shutil.which", lambda name: None if name.endswith("-gcc") else which(name))
    assert "ziglang" in compiler_for(find_target(other), static=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EffcWarning)  # zig may build its C library first
        result = compile_model(Ordered().eval(), tmp_path / "out", target=other, example_inputs=(torch.randn(1, 5),))
    library = (tmp_path / "out" / "model.so").read_bytes()
    assert (library[:5], library[16], int.from_bytes(library[18:20], "little")) == (b"\x7fELF\x02", 3, number)
    assert result.manifest.plan is None and not (tmp_path / "out" / SELF_TEST).exists()
    assert any("`effc verify` there" in note for note in result.report.notes)
    with pytest.raises(DataError, match=f"holds code for {other} .*: run it, and `effc verify`, on such a machine"):
        verify_artifact(tmp_path / "out")
    with pytest.raises(DataError, match="on such a machine"):
        load(tmp_path / "out")


FOREIGN = """
from dataclasses import replace
from effc.targets import Extension, find_target
EXTENSION = Extension("acme", (replace(find_target("riscv64"), name="acme-rv"),))
"""


def test_code_for_a_target_of_another_package_is_verified_under_its_emulator(tmp_path: Path) -> None:
    needs_tools("riscv64")
    packages = tmp_path / "packages"
    packages.mkdir()
    with packages_on_the_path(packages) as install:
        install("acme", FOREIGN, package="acme-effc")
        compile_model(nn.Linear(300, 20).eval(), tmp_path / "out", target="acme-rv", example_inputs=(torch.randn(1, 300),))
        verdict = verify_artifact(tmp_path / "out")
        assert verdict.passed and verdict.extent.startswith("the self-test passed on qemu-riscv64")
        assert 0 < verdict.findings[0].verification.worst < 1e-6  # what the self-test said, not that it passed
        assert (tmp_path / "out" / SELF_TEST).stat().st_mode & 0o111  # it may be run as it lies there
        rows = {finding.what for finding in _machine()}
        assert {"linker for acme-rv", "emulator for acme-rv"} <= rows
    with pytest.raises(MissingDependencyError, match=r"of the package acme-effc 1\.0, not installed here; pip install acme-effc==1\.0"):
        verify_artifact(tmp_path / "out")
