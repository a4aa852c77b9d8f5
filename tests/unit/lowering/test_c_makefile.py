"""The C of a model is the same for all targets; its Makefile builds again what other flags are asked for, and says what passed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import nn

from effc.compiler.c_build import missing_tools
from effc.compiler.c_vectors import golden_calls
from effc.compiler.golden import golden_inputs
from effc.ir import Batch, Program, Provenance
from effc.lowering import lower
from effc.lowering.c99.sources import c_sources
from effc.targets import C99, all_targets, find_target

LACKING = [name for name in ("gcc", "make", "ar") if shutil.which(name) is None]
needs_make = pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)}")


def sources(target: str) -> dict[str, bytes]:
    torch.manual_seed(0)
    exported = torch.export.export(nn.Linear(4, 3).eval(), (torch.zeros(1, 4),))
    program = Program.from_exported(exported, Provenance("net", "torch", "0"), batch=Batch(False))
    lowered = lower(program, find_target(target))
    return c_sources("net", lowered, golden_calls(program, golden_inputs(program, None, 0), lowered), find_target(target), "effc")


def written(target: str, folder: Path) -> None:
    for path, content in sources(target).items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(content)


def made(folder: Path, *words: str) -> str:
    own = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    }  # tests may run under make
    done = subprocess.run(["make", "CC=gcc", *words], cwd=folder, env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_c_is_the_same_for_all_targets() -> None:
    names = [target.name for target in all_targets() if target.family == C99]
    assert len(names) > 5
    first, *others = (
        {path: text for path, text in sources(name).items() if path.endswith((".c", ".h")) and "/" not in path} for name in names
    )
    assert len(first) == 5
    assert all(other == first for other in others)


@needs_make
def test_other_flags_build_again_and_the_same_do_not(tmp_path: Path) -> None:
    written("c99", tmp_path)
    assert "qemu" not in (tmp_path / "Makefile").read_text()  # it has no board
    quoted = """CFLAGS=-O0 -DNAME='"it is"'"""
    for words, built in (((), True), ((), False), ((quoted,), True), ((quoted,), False), (("CFLAGS=-O1",), True)):
        said = made(tmp_path, "test", *words)
        assert ("-o self_test" in said) is built, (words, said)
        assert "self-test passed: 1 call gave the outputs of test_vectors.h" in said.splitlines()[-1]
    assert "libeffc_net.a" in made(tmp_path, "CFLAGS=-O1")
    assert "-c effc_net.c" not in made(tmp_path, "CFLAGS=-O1")
    assert "-c effc_net.c" in made(tmp_path, "CFLAGS=-O0")
    made(tmp_path, "clean")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(sources("c99"))


@needs_make
@pytest.mark.parametrize("target", ["cortex-m4", "riscv32"])
def test_a_board_gets_the_targets_compiler_whatever_is_asked_for(target: str, tmp_path: Path) -> None:
    written(target, tmp_path)
    other = ("TARGET_CC=other-gcc", "TARGET_FLAGS=-mine", "TARGET_LIBRARY=")
    for goal in ("self_test.elf", "qemu"):
        (build,) = (line for line in made(tmp_path, "-n", goal, *other).splitlines() if "-o self_test.elf" in line)
        assert build.startswith("other-gcc -std=c99") and " -O2 -mine " in build
    quoted = """CFLAGS=-O1 -DNAME="\\"it's\\""  -DALSO='"it is"'"""
    here = ("TARGET_CC=gcc", "TARGET_FLAGS=-DMINE", "TARGET_LIBRARY=", quoted)
    assert "-DMINE" in made(tmp_path, "target", *here)
    assert "-c effc_net.c" not in made(tmp_path, "target", *here), "the same flags"
    assert "-c effc_net.c" in made(tmp_path, "target", *here[:3]), "others"


@needs_make
@pytest.mark.parametrize("target", ["cortex-m4", "riscv32"])
def test_a_board_takes_flags_with_quotes(target: str, tmp_path: Path) -> None:
    if lacking := missing_tools(find_target(target)):
        pytest.skip(f"not installed: {', '.join(lacking)}")
    written(target, tmp_path)
    quoted = """CFLAGS=-O2 -DNAME="\\"it is\\"" -DALSO='"it is"'"""
    for built in (True, False):
        said = made(tmp_path, "qemu", quoted)
        assert ("-o self_test.elf" in said) is built and "self-test passed" in said.splitlines()[-1]
    assert "-o self_test.elf" in made(tmp_path, "qemu", "CFLAGS=-O1")
    made(tmp_path, "target", quoted)
